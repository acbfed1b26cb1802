"""Costs of networks: parameters, and floating-point operations of inference and training: `compute`.

One row per experiment. Operations are those of convolutions and matrix products; a multiply-add counts as two. Training
counts its steps only, neither tests in between nor the transfer.
"""

from collections.abc import Sequence

from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo
from coopnet.report.tables.overall import training_images
from coopnet.report.tables.rows import Row, Tables

COUNTED = ("parameters", "inference_flops", "step_flops")
"""The counts of a network. `networks.flops` counts them, so that the tables do not need torch."""


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Table `compute`."""
    counted = {row["name"]: row["compute"] for row in study.experiments}
    firsts = {run.experiment: run for run in reversed(runs)}
    rows: list[Row] = []
    for name, counts in ((row["name"], row["compute"]) for row in study.with_results):
        whole = lineage.whole(firsts[name])
        own, *before = (_training(one, counted[one.experiment]["step_flops"]) for one in whole)
        known = all(one.start != "imported" for one in whole)  # of a checkpoint's past nothing is known
        row = {"experiment": name, **{key: counts[key] for key in COUNTED}, "training_flops": own}
        rows.append(row | {"lineage_flops": own + sum(before) if known else None})
    return {"compute": (("experiment", *COUNTED, "training_flops", "lineage_flops"), rows)}


def _training(run: Run, step_flops: int) -> int:
    """FLOPs of all steps of a run."""
    return step_flops * training_images(run.row["data"]) * int(run.row["training"]["epochs"])
