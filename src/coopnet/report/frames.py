"""A study's tables, read back from the files that `tables.build` wrote."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.report.published import PROTOCOL

if TYPE_CHECKING:
    from coopnet.report.ledger import Claim

PARTS = {
    "foundation": "Step 1: ONE and growth",
    "variants": "Step 1: variants",
    "elsewhere": "Step 1 on other data and other trunks",
    "growth": "Growth, continued",
    "step2": "Step 2: merging and expanding",
    "distillation": "Part 3: ensembles and distillation",
}
"""Titles of the study's parts, in the order in which a report shows them."""

START = "at_transfer"
"""The tables' name for the stage right after the transfer, before any training."""

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


WORDS = (
    *("experiment", "start", "method", "parent", "parents", "control", "teacher", "single", "key", "exact"),
    *("split", "stage", "model", "metric", "score", "rule", "subset", "module"),
    *("id", "work", "kind", "remark", "certainty", "about", "note", "state", "published", "unit"),
    *(f"{name}_{side}" for name in PROTOCOL for side in ("theirs", "ours")),
    *("differs", "unsaid", "over"),
)
"""Columns that are always read as text, never as numbers."""


@dataclass(frozen=True)
class Tables:
    """A study's tables, read back: `study` and `claims` from JSON, the others as data frames."""

    study: Mapping[str, Any]
    claims: "list[Claim]"
    runs: pd.DataFrame
    accuracy: pd.DataFrame
    transfer: pd.DataFrame
    transfer_mean: pd.DataFrame
    growth: pd.DataFrame
    growth_mean: pd.DataFrame
    merges: pd.DataFrame
    diversity: pd.DataFrame
    votes: pd.DataFrame
    votes_best: pd.DataFrame
    distillation: pd.DataFrame
    published: pd.DataFrame
    history: pd.DataFrame
    provenance: pd.DataFrame
    compute: pd.DataFrame
    reliability: pd.DataFrame

    @property
    def experiments(self) -> list[dict[str, Any]]:
        """The study's experiments, in its order."""
        return list(self.study["experiments"])

    @property
    def missing_runs(self) -> list[dict[str, Any]]:
        """Runs that failed, and runs that need a failed one: `experiment`, `seed`, `kind`, `text`, `causes`."""
        return list(self.study.get("losses", []))

    @property
    def without_results(self) -> list[dict[str, Any]]:
        """Experiments without any result: like `experiments`, without the fields that need results."""
        return list(self.study.get("lost", []))

    @property
    def names(self) -> list[str]:
        """Names of the experiments, in the study's order."""
        return [row["name"] for row in self.experiments]

    @property
    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """The experiments of each part that is not empty."""
        known = dict.fromkeys([*PARTS, *(row["part"] for row in self.experiments)])
        parts = {part: [row for row in self.experiments if row["part"] == part] for part in known}
        return {part: rows for part, rows in parts.items() if rows}

    @property
    def ordered(self) -> list[dict[str, Any]]:
        """The experiments by part, in the study's order within a part."""
        return [row for rows in self.parts.values() for row in rows]

    def by_dataset(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Experiments by the data they are tested on."""
        rows = {row["name"]: row for row in self.experiments}
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(dataset(rows[name]), []).append(name)
        return groups

    def data(self, row: Mapping[str, Any]) -> str:
        """The data of an experiment, with its number of training images if that differs within the study."""
        sizes = {other["images"]["train"] for other in self.experiments if dataset(other) == dataset(row)}
        return dataset(row) if len(sizes) == 1 else f"{dataset(row)}, {row['images']['train']:,} training images"

    def final(self, model: str) -> dict[str, float]:
        """Mean test top-1 (%) of `model` by experiment."""
        chosen = self.accuracy[(self.accuracy["split"] == "test") & (self.accuracy["model"] == model)]
        return dict(zip(chosen["experiment"], chosen["top1_mean"], strict=True))

    def average(self, experiment: str, model: str) -> dict[str, Any]:
        """The row of `accuracy` for the test images."""
        return self._averages[experiment, model]

    def seeds(self, experiment: str, model: str, score: str) -> list[float]:
        """Every seed's score on the test images, in the order of the seeds."""
        values = [float(row[score]) for row in self._scores if (row["experiment"], row["model"]) == (experiment, model)]
        return [value for value in values if not math.isnan(value)]

    @cached_property
    def _averages(self) -> dict[tuple[str, str], dict[str, Any]]:
        test = self.accuracy[self.accuracy["split"] == "test"]
        return {(row["experiment"], row["model"]): row for row in records(test)}

    @cached_property
    def _scores(self) -> list[dict[str, Any]]:
        return records(self.runs[self.runs["split"] == "test"])

    @cached_property
    def records_of_runs(self) -> list[dict[str, Any]]:
        """The rows of `provenance`."""
        return records(self.provenance)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def dataset(row: Mapping[str, Any]) -> str:
    """The display name of an experiment's data."""
    name = row["row"]["data"]["dataset"]
    return DATASETS.get(name, name)


def load(folder: Path) -> Tables:
    """Read the tables of a study, and the ledger beside their folder.

    Raises:
        CoopNetError: a table or the ledger is missing or damaged, or a table lacks a column.
    """
    from coopnet.report import ledger, tables  # they import SciPy, which the page of timings does not need

    names = [name for name in Tables.__dataclass_fields__ if name not in ("study", "claims")]
    study = files.read_json(folder / "study.json")
    claims = ledger.load(folder.parent / "claims.json", study["name"])
    columns = tables.columns()
    read = {name: read_table(folder / f"{name}.csv", study["name"], columns[name]) for name in names}
    return Tables(study, claims, **read)


def read_table(path: Path, study: str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read one CSV of a study; only an empty cell is a missing value, so an experiment may be called `nan`.

    Raises:
        CoopNetError: the table is missing or damaged, or lacks one of the columns.
    """
    remedy = f"take it from git, or run `coopnet tables {study}`"
    text = dict.fromkeys(WORDS, str)
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    except FileNotFoundError:
        raise CoopNetError(f"{path} is missing; {remedy}") from None
    except (OSError, ValueError) as error:
        raise CoopNetError(f"{path} is damaged ({error}); {remedy}") from error
    for column in columns:
        if column not in table:
            raise CoopNetError(f"{path} lacks the column {column}; {remedy}")
    return table
