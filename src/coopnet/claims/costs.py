"""What training costs: counted floating-point operations, and epochs until a target is reached."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopnet.claims import bootstrap
from coopnet.claims.bootstrap import Resampled
from coopnet.files.errors import CoopNetError
from coopnet.study import Run


class Compute(NamedTuple):
    """Counted FLOPs of training: of a run itself, and with all it descends from; None where that is not known."""

    own: int
    lineage: int | None


def read_compute(path: Path) -> dict[str, Compute]:
    """Counted FLOPs by experiment, from the table `compute.csv`.

    Raises:
        CoopNetError: it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {row["experiment"]: Compute(int(row["training_flops"]), _known(row["lineage_flops"])) for row in rows}
    except FileNotFoundError:
        raise CoopNetError(f"{path} is missing; run `coopnet tables` first") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CoopNetError(f"{path} is damaged ({error}); run `coopnet tables` again") from error


def _known(cell: str) -> int | None:
    return int(cell) if cell else None


class Curves(NamedTuple):
    """Validation accuracy of an experiment, from the first epoch of its first ancestor to its own last.

    Attributes:
        accuracy: percent, [S, E].
        price: what each epoch costs, [E].
    """

    accuracy: np.ndarray
    price: np.ndarray


def curves(histories: Sequence[Sequence[Path]], prices: Sequence[float], score: str) -> Curves:
    """Read the histories of each replicate, its ancestors' first.

    Args:
        histories: per replicate the files `history.csv` of the stages it went through.
        prices: what an epoch of each stage costs.
        score: `top1` or `top5`.

    Raises:
        CoopNetError: a history is missing or has no validation accuracy for every epoch.
    """
    stages = [[_validation(path, score) for path in paths] for paths in histories]
    price = [np.full(len(stage), cost) for stage, cost in zip(stages[0], prices, strict=True)]
    return Curves(np.array([np.concatenate(one) for one in stages]), np.concatenate(price))


def _validation(path: Path, score: str) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return np.array([float(row[f"validation_{score}_ensemble"]) for row in csv.DictReader(handle)])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CoopNetError(f"{path} has no validation accuracy of every epoch ({error!r})") from error


def until(curves: np.ndarray, target: np.ndarray, price: np.ndarray) -> np.ndarray:
    """What all epochs up to the first that reaches a target cost together; infinite where none does.

    Args:
        curves: accuracies by epoch, [R, E].
        target: what has to be reached, [R].
        price: what each epoch costs, [E].
    """
    reached = curves >= target[:, None]
    found: np.ndarray = np.where(reached.any(axis=1), np.cumsum(price)[reached.argmax(axis=1)], np.inf)
    return found


def to_target(of: Curves, than: Curves, resamples: int, seed: Sequence[int], *, ratio: bool) -> Resampled:
    """What `of` costs until it reaches the accuracy that `than` ends with, against what `than` itself costs until then.

    Curves are means over seeds, which alone are resampled: histories hold no single images. The target is the end of
    the resampled mean curve, so `than` always reaches it.

    Args:
        of: the curves of the experiment that is said to cost less.
        than: the curves of the one that sets the target.
        resamples: how often seeds are resampled.
        seed: of the draws.
        ratio: give the quotient minus 1, not the difference.
    """

    def cost(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        target = other[:, -1]
        first, second = until(own, target, of.price), until(other, target, than.price)
        return first / second - 1 if ratio else first - second

    drawn = [
        curve.accuracy[bootstrap.replicates(len(curve.accuracy), resamples, (*seed, place))].mean(axis=1)
        for place, curve in enumerate((of, than))
    ]
    estimate = float(cost(of.accuracy.mean(axis=0)[None], than.accuracy.mean(axis=0)[None])[0])
    n = min(len(of.accuracy), len(than.accuracy))
    return bootstrap.resampled(estimate, cost(*drawn), n, np.zeros(resamples))


def stages(run: Run) -> list[Run]:
    """A run and what it grew out of, first things first; of several parents none is followed."""
    return [*stages(run.parents[0]), run] if len(run.parents) == 1 else [run]
