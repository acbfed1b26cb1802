"""Reads and checks the finished runs of a study for its tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.evaluation.gather import RunFolder, RunResults
from coopnet.files.errors import CoopNetError
from coopnet.report import starts
from coopnet.report.published import Published
from coopnet.study.settings import TRANSFERS

SCORES = ("top1", "top5", "nll", "ece")
"""Top-1 and top-5 accuracy (%), negative log-likelihood (nats), expected calibration error (%, 15 bins)."""

Scores = dict[str, float]


@dataclass(frozen=True)
class StudyInfo:
    """A study without its results.

    Attributes:
        name: name of the study and of its folders.
        title: one line.
        description: purpose of the study in a few sentences.
        threads: CPU threads of every run.
        device: the requested device.
        experiments: one dictionary per experiment, in the order in which the report lists them: `name`, `about`
            (one line), `part` (of the study), `row` (all resolved settings as plain values: `data`, `model`,
            `training`, `start`), `seeds` (list of int: the runs with results), `parents` (list of
            `{"experiment": …}`) and `compute` (its network's `parameters`, `inference_flops` and `step_flops`, counted
            by `networks.flops`).
        published: published figures to compare with.
        missing_runs: runs that failed, and runs that need a failed one: `experiment`, `seed`, `kind` (`diverged`,
            `out_of_memory`, or `waiting` for a run that failed), `text` (what happened, as one sentence without a full
            stop) and `causes` (names of the failed runs: itself, or runs that it needs).
    """

    name: str
    title: str
    description: str
    threads: int
    device: str
    experiments: Sequence[Mapping[str, Any]]
    published: Sequence[Published] = ()
    missing_runs: Sequence[Mapping[str, Any]] = ()

    @property
    def with_results(self) -> list[Mapping[str, Any]]:
        """The experiments that have results."""
        return [row for row in self.experiments if row["seeds"]]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        experiment: its row's name.
        seed: its seed.
        row: its settings in the study.
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
        """The run key: a hash of everything that decides the result."""
        return str(self.record["key"])

    @property
    def start(self) -> str:
        """The kind of its start."""
        return str(self.row["start"]["kind"])

    @property
    def transferred(self) -> bool:
        """Whether it began with a transfer."""
        return self.start in TRANSFERS

    @property
    def plain_ensemble(self) -> bool:
        """Whether it is a plain ensemble of trained networks, without training of its own."""
        return starts.is_plain_ensemble(self.row)

    @property
    def branches(self) -> int:
        """Number of branches."""
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
    """Sample standard deviation (ddof = 1); None for a single value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def digits(value: float) -> float:
    """The value to ten significant digits, which removes rounding errors of binary subtraction."""
    return float(f"{value:.10g}")


def read(run: RunResults, row: Mapping[str, Any]) -> Run:
    """Read one run whose settings are `row`.

    Raises:
        CoopNetError: a file is missing, damaged, or belongs to another run.
    """
    try:
        metrics, record = run.metrics(), run.records()[run.name]
        history, timing, votes = (run.rows(table) for table in ("history", "timing", "votes"))
        _check_identity(run, row, record)
        _check_metrics(metrics, record)
        _check_history(history, row["training"]["epochs"])
        _check_timing(timing, len(history))
        if isinstance(run, RunFolder):
            _check_votes(votes, len(metrics["final"]["test"]["branches"]))
            _check_digests(run.folder, record, metrics)
    except CoopNetError as error:
        raise CoopNetError(f"{run} cannot be reported: {error}; run that experiment first") from error
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        own = isinstance(run, RunFolder)  # gathered files are also those of other runs
        remedy = "delete them and run that experiment again" if own else "restore them, or train that run here"
        raise CoopNetError(
            f"{run} cannot be reported: its files in {run.place} are damaged or of another run ({reason}); {remedy}"
        ) from error
    return Run(run.experiment, run.seed, row, metrics, record, history, timing, votes)


def _check_identity(run: RunResults, row: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Compare a run's settings with its row. Its record names no experiment, because equal rows share a run."""
    for key in ("key", "data", "parameters", "device", "libraries", "code"):
        record[key]
    if record["seed"] != run.seed:
        raise ValueError(f"run.json is that of seed {record['seed']}")
    for key, value in record["row"].items():
        if key in row and row[key] != value:
            raise ValueError(f"run.json has other settings in {key} than the study")


def _check_metrics(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Refuse another run's metrics, and scores that are not finite."""
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
    """Refuse bins with another number of images than the split, or another calibration error than the ensemble's."""
    if "reliability" not in block:
        raise ValueError("metrics.json has no reliability; `coopnet evaluate` it again")
    filled = [one for one in block["reliability"] if one["images"]]
    images = sum(one["images"] for one in filled)
    error = math.fsum(one["images"] * abs(one["confidence"] - one["accuracy"]) for one in filled) / block["images"]
    if images != block["images"] or not math.isclose(error, block["ensemble"]["ece"], abs_tol=1e-6):
        raise ValueError(f"the reliability in metrics.json has {images} images and an ECE of {error:.6g} %")


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
    """Refuse votes of fewer or more branches than the network has, and accuracies outside 0 to 100 %."""
    most = max((int(line["size"]) for line in votes), default=1)
    if most != branches:
        raise ValueError(f"votes.csv has {most} of {branches} branches; `coopnet evaluate` it again")
    for line in votes:
        for key in ("top1", "top5"):
            if not 0 <= float(line[key]) <= 100:
                raise ValueError(f"votes.csv has {key} = {line[key]}")


def _check_digests(folder: Path, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Compare files with their recorded digests: no number may be edited afterwards."""
    if files.sha256(folder / "history.csv") != record["files"]["history.csv"]:
        raise ValueError("history.csv was changed after the run")
    if files.sha256(folder / "votes.csv") != metrics["files"]["votes.csv"]:
        raise ValueError("votes.csv was changed after `coopnet evaluate`; evaluate the run again")
