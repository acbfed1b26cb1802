"""A study's tables, read back from the files that `tables.build` wrote."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from coopnet import files
from coopnet.errors import CoopNetError

PANELS = 12
"""Learning curves in one figure, at most: as many as a page shows legibly."""


@dataclass(frozen=True)
class Tables:
    """A study's tables, read back: `study` from JSON, the others as data frames."""

    study: Mapping[str, Any]
    runs: pd.DataFrame
    accuracy: pd.DataFrame
    step0: pd.DataFrame
    step0_mean: pd.DataFrame
    growth: pd.DataFrame
    growth_mean: pd.DataFrame
    history: pd.DataFrame
    provenance: pd.DataFrame

    @property
    def experiments(self) -> list[dict[str, Any]]:
        """The study's experiments, in its order."""
        return list(self.study["experiments"])

    @property
    def names(self) -> list[str]:
        """Names of the experiments, in the study's order."""
        return [row["name"] for row in self.experiments]

    @property
    def replicated(self) -> bool:
        """Whether any experiment has more than one seed."""
        return any(len(row["seeds"]) > 1 for row in self.experiments)

    @property
    def panels(self) -> dict[str, list[str]]:
        """Experiments by figure of learning curves: those that start from nothing, then those with a past."""
        trained = [row for row in self.experiments if row["epochs"]]
        groups = {
            "curves_scratch": [row["name"] for row in trained if row["start"] == "random"],
            "curves_finetuning": [row["name"] for row in trained if row["start"] != "random"],
        }
        return {
            name if first == 0 else f"{name}_{first // PANELS + 1}": group[first : first + PANELS]
            for name, group in groups.items()
            for first in range(0, len(group), PANELS)
        }

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


def load(folder: Path) -> Tables:
    """Read the tables of a study.

    Raises:
        CoopNetError: a table is missing or damaged.
    """
    names = [name for name in Tables.__dataclass_fields__ if name != "study"]
    study = files.read_json(folder / "study.json")
    return Tables(study, **{name: read_table(folder / f"{name}.csv") for name in names})


def read_table(path: Path) -> pd.DataFrame:
    """Read one CSV; only an empty cell is a missing value, so an experiment may be called `nan`.

    Raises:
        CoopNetError: the table is missing or damaged.
    """
    text = {"experiment": str, "parent": str, "control": str, "start": str, "key": str, "exact": str}
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    except FileNotFoundError:
        raise CoopNetError(f"{path} is missing; make the tables first") from None
    except (OSError, ValueError) as error:
        raise CoopNetError(f"{path} is damaged ({error}); make the tables again") from error
