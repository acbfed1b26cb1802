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


def until(curve: np.ndarray, target: float, price: np.ndarray) -> tuple[float, bool]:
    """What all epochs up to the first that reaches a target cost together, and whether there is one; else all epochs.

    Args:
        curve: accuracy by epoch, [E].
        target: what has to be reached.
        price: what each epoch costs, [E].
    """
    reached = curve >= target
    epochs = int(reached.argmax()) + 1 if reached.any() else len(curve)
    return float(price[:epochs].sum()), bool(reached.any())


class Compared(NamedTuple):
    """What `of` costs against `than` until the target, and whether it reaches the target at all."""

    value: float
    reached: bool
    slopes: tuple[float, float]
    """By how much the value moves with the cost of `of`, and with that of `than`."""


def compare(of: Curves, than: Curves, *, ratio: bool) -> Compared:
    """Costs until the mean curve reaches the end of the mean curve of `than`, which `than` itself always does."""
    first, second = of.accuracy.mean(axis=0), than.accuracy.mean(axis=0)
    own, reached = until(first, second[-1], of.price)
    other, _ = until(second, second[-1], than.price)
    if ratio:
        return Compared(own / other - 1, reached, (1 / other, own / other**2))
    return Compared(own - other, reached, (1.0, 1.0))


def to_target(of: Curves, than: Curves, *, ratio: bool) -> Estimate:
    """What `of` costs until it reaches the accuracy that `than` ends with, against what `than` itself costs until then.

    The variance is the jackknife's, which leaves out each seed in turn (Efron and Stein, Annals of Statistics 9(3),
    1981), with the degrees of freedom of the smaller group. An epoch at which a target is reached is a whole number, so
    that even seeds that agree leave an error of rounding: 1/12 of the squared price of an epoch on either side.

    Where `of` never reaches the target, it costs at least all of its epochs. That can contradict a claim of lower cost,
    but cannot support it: then nothing is known of the certainty, nor where this depends on a single seed.

    Args:
        of: the curves of the experiment that is said to cost less.
        than: the curves of the one that sets the target.
        ratio: give the quotient minus 1, not the difference.
    """
    whole, n = compare(of, than, ratio=ratio), min(len(of.accuracy), len(than.accuracy))
    if n == 1:
        return Estimate(whole.value, n)
    groups = (
        [compare(fewer, than, ratio=ratio) for fewer in _one_left_out(of)],
        [compare(of, fewer, ratio=ratio) for fewer in _one_left_out(than)],
    )
    seeds = sum((len(group) - 1) * float(np.var([one.value for one in group])) for group in groups)
    if whole.value < 0 and not all(one.reached for one in (whole, *groups[0], *groups[1])):
        seeds = math.inf
    prices = (of.price.max(), than.price.max())
    rounding = sum((slope * float(price)) ** 2 / 12 for slope, price in zip(whole.slopes, prices, strict=True))
    return Estimate(whole.value, n, (Source(seeds, n - 1), Source(rounding, math.inf)))


def _one_left_out(curves: Curves) -> list[Curves]:
    return [
        curves._replace(accuracy=np.delete(curves.accuracy, place, axis=0)) for place in range(len(curves.accuracy))
    ]


def stages(run: Run) -> list[Run]:
    """A run and what it grew out of, first things first; of several parents none is followed."""
    return [*stages(run.parents[0]), run] if len(run.parents) == 1 else [run]
