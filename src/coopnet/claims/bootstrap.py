"""The crossed bootstrap: test images and seeds are both samples, and are resampled independently of each other.

Owen and Eckles, "Bootstrapping data arrays of arbitrary order", Annals of Applied Statistics 6(3), 2012, resample the
rows and the columns of an array in this way. With few seeds its intervals are too narrow, because the bootstrap's
variance over S seeds is (S − 1)/S of the true one: they are widened by √(S/(S − 1)).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

RESAMPLES = 10_000
LEVEL = 0.95
BLOCK = 500
"""Resamples at a time: their image weights take 4 bytes per image and resample."""


class Resampled(NamedTuple):
    """An estimate and its bootstrap distribution, already widened.

    Attributes:
        estimate: of the runs and images as they are.
        draws: of resampled runs and images, [R].
        n: replicates; of two groups the smaller one.
        freedom: degrees of freedom of the distribution's variance.
    """

    estimate: float
    draws: np.ndarray
    n: int
    freedom: float = math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Central interval of probability `LEVEL`, by percentiles."""
        tail = (1 - LEVEL) / 2
        # No interpolation: draws may be infinite, and an interval's end is then infinite, not undefined.
        low, high = np.quantile(self.draws, [tail, 1 - tail], method="nearest")
        return float(low), float(high)

    def chance(self, threshold: float, *, above: bool) -> float:
        """Two-sided p value of being above, or below, a threshold; 1 of what is infinite.

        By Student's t with the bootstrap's own variance: the share of draws beyond the threshold would not do, because
        draws of three seeds end where the seeds end, so that their tails say nothing.
        """
        if not np.isfinite(self.draws).all():
            return 1.0
        distance = (self.estimate - threshold) * (1 if above else -1)
        error = float(self.draws.std())
        if error == 0:
            return 0.0 if distance > 0 else 1.0
        return min(1.0, 2 * float(stdtr(self.freedom, -distance / error)))


def accuracies(right: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Accuracy on resampled images, the same resamples for every network.

    Args:
        right: whether each network is right on each image, [K, N].
        resamples: how many resamples R.
        seed: of the draws.

    Returns:
        Percent, [R, K].
    """
    networks, images = right.shape
    generator = np.random.default_rng([seed, images])
    columns = np.ascontiguousarray(right.T, np.float32)
    counts = np.empty((resamples, networks), np.float32)
    for first in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - first)
        weights = np.empty((size, images), np.float32)
        for weight in weights:
            weight[:] = np.bincount(generator.integers(0, images, images), minlength=images)
        # Sums of whole numbers, far below 2²⁴: exact in single precision, in whatever order they are added.
        counts[first : first + size] = weights @ columns
    return 100 * counts.astype(np.float64) / images


def paired(values: np.ndarray, draws: np.ndarray, seed: Sequence[int] = (0,)) -> Resampled:
    """The mean over replicates that belong together, such as differences of a child and its parent.

    Args:
        values: one per replicate, [S].
        draws: the same on resampled images, [R, S].
        seed: of the draws of replicates.
    """
    estimate = float(values.mean())
    return resampled(estimate, _over_replicates(draws, seed), len(values), draws.mean(axis=1))


def unpaired(of: np.ndarray, than: np.ndarray, draws: tuple[np.ndarray, np.ndarray], seed: Sequence[int]) -> Resampled:
    """The difference of two means over replicates that do not belong together; their images still do.

    Args:
        of: one value per replicate of the first group, [S].
        than: of the second, [T].
        draws: the same on resampled images, [R, S] and [R, T].
        seed: of the draws of replicates.
    """
    estimate, n = float(of.mean() - than.mean()), min(len(of), len(than))
    found = _over_replicates(draws[0], (*seed, 1)) - _over_replicates(draws[1], (*seed, 2))
    return resampled(estimate, found, n, draws[0].mean(axis=1) - draws[1].mean(axis=1))


def resampled(estimate: float, draws: np.ndarray, n: int, images_alone: np.ndarray) -> Resampled:
    """Widen a distribution over `n` replicates, and say how sure its variance is.

    The variance has two parts: that of images, of which there are many, and that of `n` replicates. Its degrees of
    freedom follow from their sizes (Satterthwaite, Biometrics Bulletin 2(6), 1946).

    Args:
        estimate: of the runs and images as they are.
        draws: of resampled runs and images, [R].
        n: replicates; of two groups the smaller one.
        images_alone: the same with the replicates as they are, [R].
    """
    wide = widened(estimate, draws, n)
    if n == 1 or not np.isfinite(wide).all():
        return Resampled(estimate, wide, n)
    whole = float(wide.var())
    by_seeds = max(0.0, whole - float(images_alone.var()))
    return Resampled(estimate, wide, n, (n - 1) * (whole / by_seeds) ** 2 if by_seeds else math.inf)


def replicates(count: int, resamples: int, seed: Sequence[int]) -> np.ndarray:
    """Resampled replicates: places from 0, [R, S]."""
    return np.random.default_rng([*seed]).integers(0, count, (resamples, count))


def _over_replicates(draws: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    resamples, count = draws.shape
    chosen = np.take_along_axis(draws, replicates(count, resamples, seed), axis=1)
    mean: np.ndarray = chosen.mean(axis=1)
    return mean


def widened(estimate: float, draws: np.ndarray, n: int) -> np.ndarray:
    """Draws moved away from the estimate by √(n/(n − 1)); as they are for one replicate, or an infinite estimate."""
    factor = math.sqrt(n / (n - 1)) if n > 1 and math.isfinite(estimate) else 1.0
    if factor == 1:
        return draws
    moved: np.ndarray = estimate + factor * (draws - estimate)
    return moved
