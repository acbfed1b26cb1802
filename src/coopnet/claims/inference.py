"""An estimate with its interval and its p value, all three from one computation.

Test images and seeds are both samples, and every network sees every image. So outcomes follow the crossed
random-effects model of multi-reader studies, whose readers and cases are our seeds and images (Obuchowski and Rockette,
Communications in Statistics, Simulation and Computation 24(2), 1995; Hillis, Statistics in Medicine 26(3), 2007):

    outcome of a seed on an image = θ + seed + image + interaction

The variance of the mean over S seeds and N images has two parts. The variance of the seeds' means, divided by S, has
S − 1 degrees of freedom and includes the interaction of seed and image. The image component, which all seeds share, has
N − 1. Two unpaired groups of networks have one variance of seeds each. The degrees of freedom of their sum follow Welch
and Satterthwaite (Biometrics Bulletin 2(6), 1946).

The critical value for the sum of seeds and images is that of Cochran and Cox ("Experimental Designs", 2nd edition,
1957): the mean of both quantiles of Student's t, weighted by the variances. Satterthwaite's degrees of freedom do not
hold the level of that sum with three seeds: their interval covers 92 % instead of 95 %, and p values of 0.0005, which a
correction for many claims needs, are 25 times too frequent. NOTES.md compares the two.

No interval is narrower than the one over images alone. Without this rule, three seeds that happen to have equal
accuracies would give an interval of width 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
ALPHA = 0.05
"""A claim is decided if its two-sided p value is at most this. The interval of `LEVEL` gives the same verdict."""

SMALLEST = 1e-100
"""Smaller p values count as 0, because SciPy has no quantiles of Student's t much below it."""


class Source(NamedTuple):
    """One cause of an estimate's variance: the variance, and its degrees of freedom."""

    variance: float
    freedom: float


NOTHING = Source(0.0, math.inf)


@dataclass(frozen=True)
class Estimate:
    """A mean with the sources of its variance.

    Attributes:
        value: the estimate.
        n: number of replicates, of the smaller group if there are two.
        sources: independent sources of variance; if empty, there is no interval.
        images: the variance over images alone, for these seeds.
    """

    value: float
    n: int
    sources: tuple[Source, ...] = ()
    images: Source = NOTHING

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return bool(self.sources)

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the interval of a level."""
        return self._reach((1 - level) / 2)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends of the interval of a level."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def p(self, edge: float) -> float:
        """Two-sided p value of an edge: the largest 1 − level whose interval does not reach from the estimate to it.

        So p ≤ 0.05 exactly if the 95 % interval does not contain the edge.
        """
        distance = abs(self.value - edge)
        if not self.known or distance <= self._reach(0.5):
            return 1.0
        if distance > self._reach(SMALLEST / 2):
            return 0.0
        return math.exp(_bisect(lambda log_p: self._reach(math.exp(log_p) / 2) <= distance, math.log(SMALLEST), 0.0))

    @property
    def freedom(self) -> float | None:
        """Effective degrees of freedom of seeds and images: those of the Student's t with their critical value.

        They are not those of an interval `over_images`, unless there is nothing but images. None: there is no variance.
        """
        if not self.known or not math.isfinite(self.half_width()) or not self.half_width():
            return None
        if not sum(source.variance for source in self.sources):
            return self.images.freedom
        tail = (1 - LEVEL) / 2
        wanted, low, high = _critical(tail, self.sources), math.log(1e-2), math.log(1e9)
        return math.exp(_bisect(lambda log_freedom: -stdtrit(math.exp(log_freedom), tail) < wanted, low, high))

    def over_images(self, level: float = LEVEL) -> bool:
        """Whether the interval of a level is the one over images alone, because that is the wider or the only one."""
        alone = _critical((1 - level) / 2, [self.images]) * math.sqrt(self.images.variance)
        return 0 < alone >= self.half_width(level)

    def _reach(self, tail: float) -> float:
        """Half the width of the interval that leaves the probability `tail` outside at each end."""
        if not self.known:
            return math.inf
        variance = sum(source.variance for source in self.sources)
        if math.isinf(variance):
            return math.inf
        every = _critical(tail, self.sources) * math.sqrt(variance)
        alone = _critical(tail, [self.images]) * math.sqrt(self.images.variance)
        return float(max(every, alone))


def _critical(tail: float, sources: Sequence[Source]) -> float:
    """Cochran and Cox's critical value: quantiles of Student's t, weighted by their variances."""
    variance = sum(source.variance for source in sources)
    if not variance:
        return 0.0
    return float(sum(source.variance * -stdtrit(source.freedom, tail) for source in sources) / variance)


def _bisect(reached: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest number in [low, high] for which a monotone predicate is true."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def difference(of: np.ndarray, than: np.ndarray | None = None) -> Estimate:
    """A mean over replicates and images, or the difference of two such means.

    Args:
        of: one row per replicate and one column per image, [S, N]; for paired replicates, their differences.
        than: the same for a second, unpaired group of replicates on the same images, [T, N].

    Returns:
        The estimate. With one replicate in either group only the variance over images is known, so the estimate is
        about these networks alone.
    """
    groups = [of] if than is None else [of, than]
    size = of.shape[1]
    profile = of.mean(axis=0) - (0 if than is None else than.mean(axis=0))
    value, n = float(profile.mean()), min(map(len, groups))
    images = Source(float(profile.var(ddof=1)) / size, size - 1)
    if n == 1:
        return Estimate(value, n, (images,), images)
    seeds = _over([group.mean(axis=1) for group in groups])
    common = max(0.0, images.variance - sum(_interaction(group) / (len(group) * size) for group in groups))
    return Estimate(value, n, (seeds, Source(common, size - 1)), images)


def over_seeds(of: Sequence[float], than: Sequence[float] | None = None) -> Estimate:
    """A mean whose only source of variance is the replicates; a single replicate gives no interval.

    With `than`, a second and unpaired group of replicates, it is the difference of both means (Welch's t).
    """
    groups = [np.asarray(group, float) for group in (of, than) if group is not None]
    value, n = float(groups[0].mean() - (groups[1].mean() if len(groups) > 1 else 0)), min(map(len, groups))
    return Estimate(value, n, (_over(groups),) if n > 1 else ())


def _over(groups: Sequence[np.ndarray]) -> Source:
    """The variance over replicates of a difference of means; one mean per replicate, [S]."""
    return _sum([Source(float(means.var(ddof=1)) / len(means), len(means) - 1) for means in groups])


def _interaction(group: np.ndarray) -> float:
    """Variance of the interaction of seed and image: its mean square."""
    size = group.shape[1]
    within = float(group.var(axis=0, ddof=1).mean())
    return size / (size - 1) * max(0.0, within - float(group.mean(axis=1).var(ddof=1)))


def _sum(sources: Sequence[Source]) -> Source:
    """The sum of independent variances, with Welch and Satterthwaite's degrees of freedom."""
    variance = sum(source.variance for source in sources)
    if not variance:
        return Source(0.0, min(source.freedom for source in sources))
    return Source(variance, variance**2 / sum(source.variance**2 / source.freedom for source in sources))
