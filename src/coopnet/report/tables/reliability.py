"""Accuracy of the ensembles by bin of confidence, on the test images: `reliability`.

One row per experiment, stage and bin of confidence, pooled over seeds: images are added up; means are weighted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo, digits
from coopnet.report.tables.rows import Row, Tables, groups

KEYS = ("experiment", "stage", "bin")


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Table `reliability`."""
    rows = [group | _pooled(members) for group, members in groups(_bins(runs), KEYS)]
    return {"reliability": ((*KEYS, "images", "confidence", "accuracy"), rows)}


def _bins(runs: Sequence[Run]) -> Iterable[Row]:
    """One row per run, stage and bin, numbered from 1."""
    for run in runs:
        for stage in ("final", "at_transfer"):
            if run.metrics.get(stage):
                bins = run.metrics[stage]["test"]["reliability"]
                head = {"experiment": run.experiment, "stage": stage}
                yield from (head | {"bin": place} | one for place, one in enumerate(bins, start=1))


def _pooled(members: Sequence[Mapping[str, Any]]) -> Row:
    """One bin of all seeds; without images it has no means."""
    filled = [one for one in members if one["images"]]
    images = sum(one["images"] for one in filled)
    means = {
        name: digits(math.fsum(one["images"] * one[name] for one in filled) / images) if images else None
        for name in ("confidence", "accuracy")
    }
    return {"images": images} | means
