"""The finished runs of a study as the tables need them: read once, checked on the way in."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.evaluation.gather import RunFolder, metrics_of
from coopnet.files.errors import CoopNetError
from coopnet.report import starts
from coopnet.report.published import Published

SCORES = ("top1", "top5", "nll", "ece")
"""Top-1 and top-5 accuracy (%), negative log-likelihood (nats), expected calibration error (%, 15 bins)."""

UNCHANGED = ("random", "continue", "imported")
"""Starts without a transfer: fresh weights, or those of a parent or a checkpoint as they are."""

Scores = dict[str, float]


@dataclass(frozen=True)
class Loss:
    """A planned run that there are no results of.

    Attributes:
        experiment: its row's name.
        seed: its seed.
        kind: `diverged` or `out_of_memory`, or `waiting` where it needs a run that failed.
        text: what became of it, as one sentence without a full stop.
        causes: names of the runs that failed: itself, or those that it needs.
    """

    experiment: str
    seed: int
    kind: str
    text: str
    causes: Sequence[str]


@dataclass(frozen=True)
class StudyInfo:
    """What a study is, apart from its results.

    Attributes:
        name: name of the parameter set, also of its folders.
        title: one line, for a person.
        description: what the study is for, in a few sentences.
        threads: CPU threads of every run.
        device: the device asked for.
        experiments: one dictionary per experiment, in the order in which the report lists them: `name`, `about`
            (one line), `part` (of the study), `row` (all resolved settings as plain values: `data`, `model`,
            `training`, `start`), `seeds` (list of int; of runs with results), `parents` (list of `{"experiment": …}`)
            and `compute` (what its network costs: `parameters`, `inference_flops` and `step_flops`, as
            `networks.flops` counts them).
        published: figures of other works that the study is compared with.
        losses: runs that failed, and those that need one of them.
    """

    name: str
    title: str
    description: str
    threads: int
    device: str
    experiments: Sequence[Mapping[str, Any]]
    published: Sequence[Published] = ()
    losses: Sequence[Loss] = ()

    @property
    def there(self) -> list[Mapping[str, Any]]:
        """The experiments that have results."""
        return [row for row in self.experiments if row["seeds"]]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        experiment: its row's name.
        seed: its seed.
        row: its settings, as the study has them.
        metrics: `metrics.json`.
        record: `run.json`.
        history: `history.csv`; cells are strings, as written.
        timing: `timing.csv`, likewise.
        votes: `votes.csv`, likewise.
    """

    experiment: str
    seed: int
    row: Mapping[str, Any]
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    history: Sequence[Mapping[str, str]]
    timing: Sequence[Mapping[str, str]]
    votes: Sequence[Mapping[str, str]]

    @property
    def key(self) -> str:
        """The hash of all that decides its result."""
        return str(self.record["key"])

    @property
    def start(self) -> str:
        """How its weights began."""
        return str(self.row["start"]["kind"])

    @property
    def transferred(self) -> bool:
        """Whether it began with a transfer."""
        return self.start not in UNCHANGED

    @property
    def plain_ensemble(self) -> bool:
        """Whether it is trained networks side by side, with nothing trained."""
        return starts.is_plain_ensemble(self.row)

    @property
    def branches(self) -> int:
        """How many branches it has."""
        return len(self.metrics["final"]["test"]["branches"])

    def final(self, split: str) -> dict[str, Scores]:
        """Its final scores on a split, per model."""
        return self.models(self.metrics["final"][split])

    def models(self, block: Mapping[str, Any]) -> dict[str, Scores]:
        """Scores per model of one metrics block: `ensemble`, `branch_mean`, `branch1`, … (`gate` where known)."""
        branches = [_scores(branch) for branch in block["branches"]]
        scores = {"ensemble": _scores(block["ensemble"])}
        scores["branch_mean"] = {key: digits(mean([b[key] for b in branches])) for key in SCORES}
        return scores | {f"branch{number}": branch for number, branch in enumerate(branches, start=1)}


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, correctly rounded, so the same on every machine."""
    return math.fsum(values) / len(values)


def std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (ddof = 1); None where a single value says nothing about spread."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def digits(value: float) -> float:
    """Ten significant digits: drops the dust of binary subtraction and keeps everything that was measured."""
    return float(f"{value:.10g}")


def read(run: RunFolder, row: Mapping[str, Any]) -> Run:
    """Read one run, made with the settings of `row`.

    Raises:
        CoopNetError: a file is missing, damaged, or of another run.
    """
    try:
        metrics = metrics_of(run)
        record = files.read_sealed(run.folder / "run.json")
        history = _read_csv(run.folder / "history.csv")
        timing = _read_csv(run.folder / "timing.csv")
        votes = _read_csv(run.folder / "votes.csv")
    except CoopNetError as error:
        raise CoopNetError(f"{run} cannot be reported: {error}; run that experiment first") from error
    try:
        _check_identity(run, row, record)
        _check_metrics(metrics, record)
        _check_history(history, row["training"]["epochs"])
        _check_timing(timing, len(history))
        _check_votes(votes, len(metrics["final"]["test"]["branches"]))
        _check_digests(run.folder, record, metrics)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CoopNetError(
            f"{run} cannot be reported: its files in {run.folder} are damaged or of another run ({reason}); "
            "delete them and run that experiment again"
        ) from error
    return Run(run.experiment, run.seed, row, metrics, record, history, timing, votes)


def _read_csv(path: Path) -> list[dict[str, str]]:
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


def _check_identity(run: RunFolder, row: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Compare a run's settings with its row. Its record names no experiment, because equal rows share a run."""
    for key in ("key", "data", "parameters", "device", "libraries", "code"):
        record[key]
    if record["seed"] != run.seed:
        raise ValueError(f"run.json is that of seed {record['seed']}")
    for key, value in record["row"].items():
        if key in row and row[key] != value:
            raise ValueError(f"run.json has other settings in {key} than the study")


def _check_metrics(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Refuse another run's metrics, and anything but finite numbers: what could not be measured is no score."""
    if metrics["key"] != record["key"]:
        raise ValueError("metrics.json was computed for another run; `coopnet evaluate` it again")
    for stage in [metrics["final"], *([metrics["at_transfer"]] if metrics.get("at_transfer") else [])]:
        for block in [stage["test"], *([stage["validation"]] if stage.get("validation") else [])]:
            if int(block["images"]) < 1 or not block["branches"]:
                raise ValueError("metrics.json counts no images or no branches")
            versus = block.get("versus_parents", {})
            several = [block["mean_probabilities"]] if len(block["branches"]) > 1 else []
            parents = [*versus["singles"], versus["logit_ensemble"]] if versus else []
            for scores in [block["ensemble"], *block["branches"], *several, *parents]:
                _scores(scores)
            _check_reliability(block)
            if several:
                _check_diversity(block["diversity"])


def _check_reliability(block: Mapping[str, Any]) -> None:
    """Refuse bins that hold other images than the split, or that give another calibration error than the ensemble's."""
    if "reliability" not in block:
        raise ValueError("metrics.json has no reliability; `coopnet evaluate` it again")
    filled = [one for one in block["reliability"] if one["images"]]
    images = sum(one["images"] for one in filled)
    error = math.fsum(one["images"] * abs(one["confidence"] - one["accuracy"]) for one in filled) / block["images"]
    if images != block["images"] or not math.isclose(error, block["ensemble"]["ece"], abs_tol=1e-6):
        raise ValueError(f"the reliability in metrics.json is of {images} images with an ECE of {error:.6g} %")


def _check_diversity(diversity: Mapping[str, Any]) -> None:
    for measures in [diversity, *diversity["pairs"].values()]:
        for key in ("disagreement", "kl"):
            if not math.isfinite(measures[key]):
                raise ValueError(f"metrics.json has {key} = {measures[key]}")


def _scores(scores: Mapping[str, Any]) -> Scores:
    numbers = {key: float(scores[key]) for key in SCORES}
    if scores.get("gate") is not None:
        numbers["gate"] = float(scores["gate"])
    for key, value in numbers.items():
        if not math.isfinite(value) or (key in ("top1", "top5", "ece") and not 0 <= value <= 100):
            raise ValueError(f"metrics.json has {key} = {value}")
    return numbers


def _check_history(history: Sequence[Mapping[str, str]], planned: int) -> None:
    epochs = [int(line["epoch"]) for line in history]
    if epochs != list(range(planned)):
        raise ValueError(f"history.csv has {len(epochs)} of {planned} epochs")


def _check_timing(timing: Sequence[Mapping[str, str]], epochs: int) -> None:
    """Check the form of the timings. Their values cannot be checked, and no other figure depends on them."""
    measured = [float(line[key]) for line in timing for key in ("train_seconds", "evaluation_seconds")]
    measured += [float(line["images_per_second"]) for line in timing]
    if len(timing) != epochs or not all(math.isfinite(value) and value >= 0 for value in measured):
        raise ValueError(f"timing.csv does not have the seconds of {epochs} epochs")


def _check_votes(votes: Sequence[Mapping[str, str]], branches: int) -> None:
    """Refuse votes of fewer or more branches than the network has, and accuracies that are none."""
    most = max((int(line["size"]) for line in votes), default=1)
    if most != branches:
        raise ValueError(f"votes.csv has {most} of {branches} branches; `coopnet evaluate` it again")
    for line in votes:
        for key in ("top1", "top5"):
            if not 0 <= float(line[key]) <= 100:
                raise ValueError(f"votes.csv has {key} = {line[key]}")


def _check_digests(folder: Path, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Compare with the digests that were recorded: no number may be edited afterwards."""
    if files.sha256(folder / "history.csv") != record["files"]["history.csv"]:
        raise ValueError("history.csv is not the file that the run wrote")
    if files.sha256(folder / "votes.csv") != metrics["files"]["votes.csv"]:
        raise ValueError("votes.csv is not the file that `coopnet evaluate` wrote; evaluate it again")
