"""From an estimate and its interval to a verdict, and from the verdicts of parts to that of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from coopnet.claims.bootstrap import LEVEL, Resampled

Verdict = Literal["supported", "contradicted", "inconclusive", "not decided", "not run"]
"""A claim is `not run` where the study lacks an experiment, `not decided` where it lost a run that is needed.

Not even by the seeds that are left: those that fail are not drawn by chance, so what is left is a biased sample.
"""

FEWEST = 3
"""Seeds; of fewer nothing is concluded about networks in general."""

FEW = "these networks only"


@dataclass(frozen=True)
class Decision:
    """What became of one part of a claim.

    Attributes:
        text: what was compared.
        kind: the kind of the part.
        verdict: decided by the interval, or by counting.
        estimate: None where nothing was run, or where it is infinite.
        interval: ends that are infinite are None; None as a whole where nothing was sampled.
        unit: of the estimate.
        n: replicates.
        p: two-sided p value of the verdict; None where nothing was sampled, or too few seeds.
        slack: how far the interval is on the claim's side of its threshold.
        paired: whether replicates belong together; None where nothing is compared over replicates.
        beside: what is shown next to it, by name: estimate and interval.
        target: the gain that a claim of kind `about` states.
        note: what a reader has to know.
        missing: experiments that the study does not have.
        lost: what became of runs that are needed and have no results.
    """

    text: str
    kind: str
    verdict: Verdict
    estimate: float | None = None
    interval: tuple[float | None, float | None] | None = None
    unit: str = "points"
    n: int = 0
    p: float | None = None
    slack: float = 0.0
    paired: bool | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    target: list[float] | None = None
    note: str = ""
    missing: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def decide(
    found: Resampled, kind: str, margin: float = 0.0, target: Sequence[float] | None = None
) -> tuple[Verdict, float | None, float, str]:
    """Verdict, p value, slack and note of a resampled difference.

    Args:
        found: the difference; for `less`, what is said to be below 0.
        kind: `better`, `not_worse`, `nothing`, `about` or `less`.
        margin: δ, the largest difference that does not count.
        target: for `about`, the least and the largest gain.
    """
    low, high = found.interval
    note = ""
    match kind:
        case "better" | "about":
            slack, opposite = low, high < 0
            p, against = found.chance(0, above=True), found.chance(0, above=False)
        case "not_worse":
            slack, opposite = low + margin, high < -margin
            p, against = found.chance(-margin, above=True), found.chance(-margin, above=False)
        case "nothing":
            slack, opposite = min(low + margin, margin - high), low > margin or high < -margin
            p = max(found.chance(-margin, above=True), found.chance(margin, above=False))
            against = min(found.chance(margin, above=True), found.chance(-margin, above=False))
        case "less":
            slack, opposite = -high, low > 0
            p, against = found.chance(0, above=False), found.chance(0, above=True)
        case _:
            raise ValueError(f"unknown kind {kind!r}")
    verdict: Verdict = "supported" if slack > 0 else "contradicted" if opposite else "inconclusive"
    if target is not None and verdict == "supported" and (high < target[0] or low > target[1]):
        verdict = "inconclusive"
        note = f"a gain, and a {'smaller' if high < target[0] else 'larger'} one than claimed"
    if found.n < FEWEST:
        return "inconclusive", None, slack, FEW
    return verdict, against if verdict == "contradicted" else p, slack, note


def conjunction(parts: Sequence[Decision]) -> tuple[Verdict, float | None, Decision]:
    """Verdict and p value of a claim that holds when every part does, and the part that decides.

    Of parts that all have to hold the least certain gives the p value (Berger, "Multiparameter hypothesis testing and
    acceptance sampling", Technometrics 24(4), 1982); one that fails refutes all, at Bonferroni's price.
    """
    for verdict in ("not run", "not decided", "contradicted", "inconclusive", "supported"):
        deciding = [part for part in parts if part.verdict == verdict]
        if deciding:
            break
    weakest = min(deciding, key=_certainty)
    if weakest.verdict == "contradicted":
        known = [part.p for part in deciding if part.p is not None]
        return weakest.verdict, min(1.0, len(parts) * min(known)) if known else None, weakest
    known = [part.p for part in parts if part.p is not None]
    untested = any(part.p is None for part in deciding) and weakest.verdict != "supported"
    return weakest.verdict, None if untested or not known else max(known), weakest


def _certainty(part: Decision) -> tuple[bool, float, bool, float]:
    """Of parts with the same verdict the least certain comes first, or of those that refute the most certain one.

    By p value, without which a sampled part comes before a counted one: parts may be in different units.
    """
    sign = 1 if part.verdict == "contradicted" else -1
    return part.p is None, sign * (part.p or 0.0), part.interval is None, part.slack


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values corrected for all that are tested at once; those that are None are no tests, and stay None.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2), 1979: the
    k-th smallest of m is multiplied by m − k + 1, and none may fall below the one before it.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected, largest = dict[int, float](), 0.0
    for k, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - k) * p))
        corrected[place] = largest
    return [corrected.get(place) for place in range(len(p_values))]


def after_holm(verdict: Verdict, p: float | None) -> Verdict:
    """The verdict that is left when all claims of a ledger are tested at once, `p` being the corrected value."""
    return verdict if p is None or p <= 1 - LEVEL + np.finfo(float).eps else "inconclusive"
