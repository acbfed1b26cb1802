"""The results of all runs of a study in four files; claims and report are made from these and the tables.

records.json           the record of each run, and of each network at transfer, by name
metrics.json           the metrics of each run; if it began with a transfer, those at transfer as `at_transfer`
scores.json            mean accuracies of each experiment over its seeds
outcomes.safetensors   which test images each network classifies correctly, as bits, `<experiment>/seed<k>/<network>`
"""

import abc
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.files.errors import CoopNetError

Rows = list[dict[str, str]]
SCHEDULE = ("epoch", "lr", "rampup", "prior_alpha")
SPLITS = ("train", "validation", "test")
FACTOR = "factor_"
"""Columns of `history.csv`: the schedule, those of each split (`train_loss`), and modules' learning-rate factors."""


@dataclass(frozen=True)
class RunResults(abc.ABC):
    """What the tables and claims of a study need of a run. All methods raise `CoopNetError` if it is not there."""

    experiment: str
    seed: int

    @property
    def name(self) -> str:
        """`one3/seed0`."""
        return f"{self.experiment}/seed{self.seed}"

    def __str__(self) -> str:
        """The name in messages."""
        return f"{self.experiment} seed {self.seed}"

    @property
    @abc.abstractmethod
    def place(self) -> Path:
        """The folder of its files, for messages."""

    @abc.abstractmethod
    def records(self) -> dict[str, Any]:
        """Its record by its name, and that of its network at transfer if that has a folder of its own."""

    @abc.abstractmethod
    def metrics(self) -> dict[str, Any]:
        """Its metrics; `at_transfer` has those of its network at transfer, if it began with one."""

    @abc.abstractmethod
    def outcomes(self) -> dict[str, np.ndarray]:
        """Which test images each of its networks classifies correctly, at the end and at transfer."""

    @abc.abstractmethod
    def rows(self, table: str) -> Rows:
        """Rows of its `history`, `timing` or `votes`, as written."""


@dataclass(frozen=True)
class RunFolder(RunResults):
    """The folder of a run, and that of its network at transfer: its own folder if the run is not trained further."""

    folder: Path
    at_transfer: Path | None = None

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.folder

    def records(self) -> dict[str, Any]:
        """From `run.json`."""
        found = {self.name: files.read_sealed(self.folder / "run.json")}
        if self.at_transfer not in (None, self.folder):
            found[_at_transfer(self.name)] = files.read_sealed(self.at_transfer / "run.json")
        return found

    def metrics(self) -> dict[str, Any]:
        """From `metrics.json`."""
        metrics: dict[str, Any] = files.read_json(self.folder / "metrics.json")
        if self.at_transfer is not None:
            metrics["at_transfer"] = files.read_json(self.at_transfer / "metrics.json")["final"]
        return metrics

    def outcomes(self) -> dict[str, np.ndarray]:
        """From `outcomes.safetensors`, which has to be the file that was evaluated."""
        tensors = dict(_checked(self.folder))
        if self.at_transfer is not None:
            tensors["at_transfer/ensemble"] = _checked(self.at_transfer)["final/ensemble"]
        return tensors

    def rows(self, table: str) -> Rows:
        """From `<table>.csv`."""
        return read_rows(self.folder / f"{table}.csv")


class Gathered:
    """The results of a study as they were gathered before, perhaps on another machine.

    Args:
        results: `results/<study>`.

    Raises:
        CoopNetError: a file is missing or damaged.
    """

    def __init__(self, results: Path):
        self.results = results
        self.records: dict[str, Any] = files.read_json(results / "records.json")
        self.metrics: dict[str, Any] = files.read_json(results / "metrics.json")
        self.outcomes = files.read_tensors(results / "outcomes.safetensors")
        self.tables = {
            name: read_rows(results / "tables" / f"{name}.csv") for name in ("history", "factors", "timing", "votes")
        }


@dataclass(frozen=True)
class GatheredRun(RunResults):
    """A run without a folder here: what the gathered results of its study have of it."""

    gathered: Gathered

    @property
    def place(self) -> Path:
        """The folder of the study's results."""
        return self.gathered.results

    def records(self) -> dict[str, Any]:
        """From `records.json`."""
        names = (self.name, _at_transfer(self.name))
        return {name: self.gathered.records[name] for name in names if name in self.gathered.records}

    def metrics(self) -> dict[str, Any]:
        """From `metrics.json`."""
        return {key: value for key, value in self.gathered.metrics[self.name].items() if key != "validation_curve"}

    def outcomes(self) -> dict[str, np.ndarray]:
        """From `outcomes.safetensors`."""
        prefix = f"{self.name}/"
        tensors = self.gathered.outcomes.items()
        return {name.removeprefix(prefix): bits for name, bits in tensors if name.startswith(prefix)}

    def rows(self, table: str) -> Rows:
        """From the tables. They have only the total time of a run, so each epoch gets the mean."""
        own = self._own(table)
        if table == "history":
            return self._history(own)
        return _epochs(*own) if table == "timing" else own

    def _history(self, lines: Rows) -> Rows:
        """Rows of `history.csv`, one per epoch, from those of the table, one per epoch and split."""
        epochs: dict[str, dict[str, str]] = {}
        for line in lines:
            row = epochs.setdefault(line["epoch"], {key: line[key] for key in SCHEDULE if line[key]})
            own = {key: cell for key, cell in line.items() if cell and key not in (*SCHEDULE, "split")}
            row |= {f"{line['split']}_{key}": cell for key, cell in own.items() if not key.endswith("_branch_mean")}
        for line in self._own("factors"):
            epochs[line["epoch"]][FACTOR + line["module"]] = line["factor"]
        columns = dict.fromkeys(key for row in epochs.values() for key in row)
        return [dict.fromkeys(columns, "") | row for row in epochs.values()]

    def _own(self, table: str) -> Rows:
        """Its rows of a table, without the columns that name it."""
        of_run = [line for line in self.gathered.tables[table] if self._named(line)]
        return [{key: cell for key, cell in line.items() if key not in ("experiment", "seed")} for line in of_run]

    def _named(self, line: Mapping[str, str]) -> bool:
        return (line["experiment"], line["seed"]) == (self.experiment, str(self.seed))


def _epochs(total: Mapping[str, str]) -> Rows:
    """Rows of `timing.csv` with the mean times of an epoch, from the total of all epochs."""
    epochs = int(total["epochs"])
    times = {key: float(total[key]) for key in ("train_seconds", "evaluation_seconds")}
    means = {key: str(seconds / max(epochs, 1)) for key, seconds in times.items()}
    return [{**means, "images_per_second": total["images_per_second"]} for _ in range(epochs)]


def _at_transfer(name: str) -> str:
    return f"{name} at transfer"


def _checked(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "outcomes.safetensors"
    if files.sha256(path) != files.read_json(folder / "metrics.json")["files"].get(path.name):
        raise CoopNetError(f"{path} was changed after it was evaluated; run `coopnet evaluate` for it again")
    return files.read_tensors(path)


def read_rows(path: Path) -> Rows:
    """Rows of a CSV file; cells are strings, as written.

    Raises:
        CoopNetError: the file is missing, unreadable or cut short.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise CoopNetError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CoopNetError(f"cannot read {path}: {error}") from error
    if any(None in row or None in row.values() for row in rows):
        raise CoopNetError(f"{path} is damaged (cut short)")
    return rows


def write(runs: Sequence[RunResults], out: Path) -> None:
    """Write the four files of a study to a folder.

    Raises:
        CoopNetError: a file is missing or damaged.
    """
    records = {name: record for run in runs for name, record in run.records().items()}
    metrics = {run.name: run.metrics() | _curve(run.rows("history")) for run in runs}
    bits = {f"{run.name}/{network}": tensor for run in runs for network, tensor in run.outcomes().items()}
    files.write_tensors(out / "outcomes.safetensors", bits)
    files.write_text(out / "records.json", _a_line_each(records))
    files.write_json(out / "scores.json", _at_a_glance(runs, metrics))
    files.write_text(out / "metrics.json", _a_line_each(metrics))


def _a_line_each(content: Mapping[str, Any]) -> str:
    """JSON with one line per run, so that `git diff` shows which runs differ."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(content[name], sort_keys=True, allow_nan=False)}" for name in sorted(content)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _curve(rows: Rows) -> dict[str, Any]:
    """Validation accuracy of the ensemble after each epoch, in percent, if it was measured."""
    columns = {score: f"validation_{score}_ensemble" for score in ("top1", "top5")}
    if not rows or not all(column in rows[0] for column in columns.values()):
        return {}
    return {"validation_curve": {score: [float(row[column]) for row in rows] for score, column in columns.items()}}


def _at_a_glance(runs: Sequence[RunResults], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Mean top-1 and top-5 in percent of each experiment's ensemble over its seeds, for `dvc metrics`."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        found.setdefault(run.experiment, []).append(metrics[run.name]["final"]["test"]["ensemble"])
    return {
        experiment: {score: round(float(np.mean([one[score] for one in scores])), 4) for score in ("top1", "top5")}
        for experiment, scores in found.items()
    }
