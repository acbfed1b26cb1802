"""What training costs: counted floating-point operations, and epochs until a target is reached."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopnet.claims.inference import Estimate, Source
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


def until(curve: np.ndarray, target: float, price: np.ndarray) -> float:
    """What all epochs up to the first that reaches a target cost together; infinite where none does.

    Args:
        curve: accuracy by epoch, [E].
        target: what has to be reached.
        price: what each epoch costs, [E].
    """
    reached = curve >= target
    return float(np.cumsum(price)[reached.argmax()]) if reached.any() else math.inf


def to_target(of: Curves, than: Curves, *, ratio: bool) -> Estimate:
    """What `of` costs until it reaches the accuracy that `than` ends with, against what `than` itself costs until then.

    Curves are means over seeds, and the target is the end of the mean curve, so `than` always reaches it. The variance
    is the jackknife's: each seed is left out in turn (Efron and Stein, Annals of Statistics 9(3), 1981). Degrees of
    freedom are those of the smaller group alone. An epoch at which a target is reached is a whole number, so that even
    seeds that agree leave an error of rounding, 1/12 of the squared price of an epoch on either side. Where one that is
    left out decides whether the target is reached at all, nothing is known of the certainty, and nothing is concluded.

    Args:
        of: the curves of the experiment that is said to cost less.
        than: the curves of the one that sets the target.
        ratio: give the quotient minus 1, not the difference.
    """

    def costs(own: np.ndarray, other: np.ndarray) -> tuple[float, float]:
        first, second = own.mean(axis=0), other.mean(axis=0)
        return until(first, second[-1], of.price), until(second, second[-1], than.price)

    def compared(own: np.ndarray, other: np.ndarray) -> float:
        first, second = costs(own, other)
        return first / second - 1 if ratio else first - second

    own, other = of.accuracy, than.accuracy
    value, n = compared(own, other), min(len(own), len(other))
    if n == 1 or math.isinf(value):
        return Estimate(value, n)
    left_out = (
        [compared(np.delete(own, place, axis=0), other) for place in range(len(own))],
        [compared(own, np.delete(other, place, axis=0)) for place in range(len(other))],
    )
    seeds = math.inf
    if np.isfinite(np.concatenate(left_out)).all():
        seeds = sum((len(group) - 1) * float(np.var(group)) for group in left_out)
    first, second = costs(own, other)
    slopes = (1 / second, first / second**2) if ratio else (1.0, 1.0)
    rounding = sum((slope * curves.price.max()) ** 2 / 12 for slope, curves in zip(slopes, (of, than), strict=True))
    return Estimate(value, n, (Source(seeds, n - 1), Source(float(rounding), math.inf)))


def stages(run: Run) -> list[Run]:
    """A run and what it grew out of, first things first; of several parents none is followed."""
    return [*stages(run.parents[0]), run] if len(run.parents) == 1 else [run]
