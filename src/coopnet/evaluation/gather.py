"""The results of all runs of a study in four files; claims and report are made from these and the tables.

records.json           the record of each run, and of each network at transfer, by name
metrics.json           the metrics of each run; if it began with a transfer, those at transfer as `at_transfer`
scores.json            mean accuracies of each experiment over its seeds
outcomes.safetensors   which test images each network classifies correctly, as bits, `<experiment>/seed<k>/<network>`
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coopnet import files
from coopnet.files.errors import CoopNetError


class RunFolder(NamedTuple):
    """The folder of a run, and that of its network at transfer: its own folder if the run is not trained further."""

    experiment: str
    seed: int
    folder: Path
    at_transfer: Path | None = None

    @property
    def name(self) -> str:
        """`one3/seed0`."""
        return f"{self.experiment}/seed{self.seed}"

    def __str__(self) -> str:
        """The name in messages."""
        return f"{self.experiment} seed {self.seed}"


def metrics_of(run: RunFolder) -> dict[str, Any]:
    """The metrics of a run; `at_transfer` has those of its network at transfer, if it began with one.

    Raises:
        CoopNetError: a file is missing or damaged.
    """
    metrics: dict[str, Any] = files.read_json(run.folder / "metrics.json")
    if run.at_transfer is not None:
        metrics["at_transfer"] = files.read_json(run.at_transfer / "metrics.json")["final"]
    return metrics


def outcomes_of(run: RunFolder) -> dict[str, np.ndarray]:
    """Which test images each network of a run classifies correctly, at the end and at transfer.

    Raises:
        CoopNetError: a file is missing, damaged, or not the one that was evaluated.
    """
    tensors = dict(_checked(run.folder))
    if run.at_transfer is not None:
        tensors["at_transfer/ensemble"] = _checked(run.at_transfer)["final/ensemble"]
    return tensors


def _checked(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "outcomes.safetensors"
    if files.sha256(path) != files.read_json(folder / "metrics.json")["files"].get(path.name):
        raise CoopNetError(f"{path} was changed after it was evaluated; run `coopnet evaluate` for it again")
    return files.read_tensors(path)


def write(runs: Sequence[RunFolder], out: Path) -> None:
    """Write the four files of a study to a folder.

    Raises:
        CoopNetError: a file is missing or damaged.
    """
    records = {run.name: files.read_sealed(run.folder / "run.json") for run in runs}
    for run in runs:
        if run.at_transfer not in (None, run.folder):
            records[f"{run.name} at transfer"] = files.read_sealed(run.at_transfer / "run.json")
    metrics = {run.name: metrics_of(run) | _curve(run.folder / "history.csv") for run in runs}
    bits = {f"{run.name}/{network}": tensor for run in runs for network, tensor in outcomes_of(run).items()}
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


def _curve(history: Path) -> dict[str, Any]:
    """Validation accuracy of the ensemble after each epoch, in percent, if it was measured."""
    columns = {score: f"validation_{score}_ensemble" for score in ("top1", "top5")}
    with history.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or not all(column in rows[0] for column in columns.values()):
        return {}
    return {"validation_curve": {score: [float(row[column]) for row in rows] for score, column in columns.items()}}


def _at_a_glance(runs: Sequence[RunFolder], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Mean top-1 and top-5 in percent of each experiment's ensemble over its seeds, for `dvc metrics`."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        found.setdefault(run.experiment, []).append(metrics[run.name]["final"]["test"]["ensemble"])
    return {
        experiment: {score: round(float(np.mean([one[score] for one in scores])), 4) for score in ("top1", "top5")}
        for experiment, scores in found.items()
    }
