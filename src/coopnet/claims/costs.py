"""Costs of training: counted floating-point operations, and epochs until a target accuracy is reached."""

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
    """Counted training FLOPs: of a run alone, and with all its ancestors (None if one of them is unknown)."""

    own: int
    lineage: int | None


def read_compute(path: Path, study: str) -> dict[str, Compute]:
    """Counted FLOPs by experiment, from the table `compute.csv` of a study.

    Raises:
        CoopNetError: the table is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {row["experiment"]: Compute(int(row["training_flops"]), _known(row["lineage_flops"])) for row in rows}
    except FileNotFoundError:
        raise CoopNetError(f"{path} is missing; run `coopnet tables {study}` first") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CoopNetError(f"{path} is damaged ({error}); run `coopnet tables {study}` again") from error


def _known(cell: str) -> int | None:
    return int(cell) if cell else None


class Curves(NamedTuple):
    """Validation accuracy of an experiment, from the first epoch of its first ancestor to its own last.

    Attributes:
        accuracy: percent, [S, E].
        price: cost of each epoch, [E].
    """

    accuracy: np.ndarray
    price: np.ndarray


def curves(stages: Sequence[Sequence[np.ndarray]], prices: Sequence[float]) -> Curves:
    """Join the curves of each replicate's stages, beginning with its first ancestor.

    Args:
        stages: for each replicate, the accuracies by epoch of each stage.
        prices: cost of one epoch of each stage.
    """
    price = [np.full(len(stage), cost) for stage, cost in zip(stages[0], prices, strict=True)]
    return Curves(np.array([np.concatenate(one) for one in stages]), np.concatenate(price))


def until(curve: np.ndarray, target: float, price: np.ndarray) -> tuple[float, bool]:
    """Total cost up to the first epoch that reaches the target, and True; else the cost of all epochs, and False.

    Args:
        curve: accuracy by epoch, [E].
        target: the accuracy to reach.
        price: cost of each epoch, [E].
    """
    reached = curve >= target
    epochs = int(reached.argmax()) + 1 if reached.any() else len(curve)
    return float(price[:epochs].sum()), bool(reached.any())


class Compared(NamedTuple):
    """Cost of `of` until the target compared with that of `than`, and whether `of` reaches the target."""

    value: float
    reached: bool
    slopes: tuple[float, float]
    """Absolute derivatives of the value with respect to the cost of `of` and to the cost of `than`."""


def compare(of: Curves, than: Curves, *, ratio: bool) -> Compared:
    """Compare the costs of both mean curves until they reach the last accuracy of the mean curve of `than`."""
    first, second = of.accuracy.mean(axis=0), than.accuracy.mean(axis=0)
    own, reached = until(first, second[-1], of.price)
    other, _ = until(second, second[-1], than.price)
    if ratio:
        return Compared(own / other - 1, reached, (1 / other, own / other**2))
    return Compared(own - other, reached, (1.0, 1.0))


def to_target(of: Curves, than: Curves, *, ratio: bool) -> Estimate:
    """Cost of `of` until it reaches the final accuracy of `than`, compared with the cost of `than` until then.

    The variance is the jackknife's, which leaves out each seed in turn (Efron and Stein, Annals of Statistics 9(3),
    1981), with the degrees of freedom of the smaller group. The epoch at which a target is reached is a whole number,
    so each side has a rounding error as well. Its variance is 1/12 of the squared price of an epoch.

    If `of` never reaches the target, its cost is at least that of all its epochs. This lower bound can contradict a
    claim of lower cost, but it cannot support one: the variance is then infinite. The same holds if `of` misses the
    target when a single seed is left out.

    Args:
        of: curves of the experiment that is claimed to cost less.
        than: curves of the experiment that sets the target.
        ratio: return the quotient minus 1 instead of the difference.
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
    """A run after its chain of single parents, the first ancestor first; the chain ends at a run with several."""
    return [*stages(run.parents[0]), run] if len(run.parents) == 1 else [run]
