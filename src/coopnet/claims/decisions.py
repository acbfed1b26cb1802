"""Verdicts: what they are made of, and how `claims.json` holds them.

`claims.json` is a list with one `Decision` per claim and score, in the order of `claims.yaml`; a claim about accuracy
is decided for top-1 and for top-5. The same models write the file and read it.

Every comparison states a **region** in which its number lies if it holds:

| kind | region | the claim is supported where the interval lies |
| --- | --- | --- |
| `better` | above 0 | above 0 |
| `not_worse` | above −margin | above −margin (non-inferiority) |
| `nothing` | −margin to margin | inside (equivalence) |
| `about` | least − margin to most + margin | inside (equivalence with the claimed gain) |
| `less`, costs | below 0 | below 0 |
| `calibration_kept` | below the tolerance | below the tolerance |

It is *supported* where the 95 % interval lies inside the region, *contradicted* where it lies outside, and
*inconclusive* where the interval holds an edge of it. The p value is that of the edge nearest to the estimate,
two-sided: p ≤ 0.05 exactly where no edge is in the interval, hence exactly where the verdict is decided. Support and
contradiction so have 2.5 % each, which is the usual level of a non-inferiority test; for `nothing` and `about` it is
that of two one-sided tests (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15(6), 1987) at 2.5 % each,
stricter than the usual 5.

How a verdict was reached is its **basis**: it was *tested* (sampled, with a p value), or *counted* (what happened in
these runs, without a p value), or there were *too few seeds* to test it. The two kinds of verdicts are never added up.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coopnet.claims.inference import ALPHA, LEVEL, Estimate

Verdict = Literal["supported", "contradicted", "inconclusive", "not decided", "not run"]
"""A claim is `not run` where the study lacks an experiment, `not decided` where it lost a run that is needed.

Not even by the seeds that are left: those that fail are not drawn by chance, so what is left is a biased sample.
"""

Basis = Literal["tested", "counted", "too few seeds"]
Kind = Literal[
    "better",
    "not_worse",
    "nothing",
    "about",
    "predictions_kept",
    "calibration_kept",
    "less_compute",
    "fewer_epochs",
    "less_compute_to_target",
]
Unit = Literal["points", "images", "nats", "ECE points", "epochs", "change"]
Ends = Annotated[tuple[float | None, float | None], Field(strict=False)]
"""Lower and upper end; None is an infinite one."""
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

UNDECIDED = ("not decided", "not run")
"""Verdicts without any number: a run that is needed failed, or the study lacks an experiment."""

FEWEST = 3
"""Seeds; of fewer nothing is concluded about networks in general."""


class Measured(BaseModel):
    """An estimate and its interval.

    There is no interval where the estimate is a plain count, no estimate where it is infinite, and neither where
    nothing was run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    estimate: float | None = None
    interval: Ends | None = None

    @model_validator(mode="after")
    def _ends_in_order(self) -> "Measured":
        low, high = self.interval or (None, None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"the interval {list(self.interval or ())} is upside down")
        return self


class Outcome(Measured):
    """What was found, of one comparison or of a whole claim.

    Attributes:
        verdict: decided by the interval, or by counting.
        basis: how; None where nothing was run.
        unit: of estimate and interval.
        n: replicates; of two groups the smaller one.
        df: effective degrees of freedom of the interval; None where there is none, or nothing varies.
        p: two-sided; None where nothing was tested.
        paired: whether replicates belong together; None where nothing is compared over replicates.
        region: where the estimate lies if the claim holds; None where nothing is sampled.
        given: what the interval takes as given, such as one split of the images that all seeds share.
        note: what else a reader has to know.
    """

    verdict: Verdict
    basis: Basis | None = None
    unit: Unit = "points"
    n: Count = 0
    df: Annotated[float, Field(gt=0)] | None = None
    p: Probability | None = None
    paired: bool | None = None
    region: Ends | None = None
    given: list[str] = []
    note: str = ""

    @property
    def ran(self) -> bool:
        """Whether the study has the results that it needs."""
        return self.verdict not in UNDECIDED

    @property
    def decided(self) -> bool:
        """Whether it is supported or contradicted."""
        return self.verdict in ("supported", "contradicted")

    @model_validator(mode="after")
    def _interval_p_and_verdict_agree(self) -> "Outcome":
        if self.ran == (self.basis is None):
            raise ValueError(f"it is {self.verdict}, on the basis of {self.basis or 'nothing'}")
        if (self.basis == "tested") != (self.p is not None):
            raise ValueError("p belongs to what is tested, and to nothing else")
        if self.p is not None and self.decided != (self.p <= ALPHA):
            raise ValueError(f"it is {self.verdict} at p = {self.p}")
        if self.ran and not ((self.estimate is not None or self.note) and self.n):
            raise ValueError(f"it is {self.verdict}, but lacks an estimate or replicates")
        if not self.ran and (self.estimate, self.interval, self.n) != (None, None, 0):
            raise ValueError(f"it is {self.verdict}, but has numbers")
        return self


class Part(Outcome):
    """One of the statements that must all hold.

    Attributes:
        text: what is compared.
        kind: the kind of the statement.
        beside: what is shown next to it, by name.
        target: the gain that a claim of kind `about` states.
        missing: experiments that the study does not have.
        lost: what became of runs that are needed and have no results.
    """

    text: str
    kind: Kind
    beside: dict[str, Measured] = {}
    target: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    missing: list[str] = []
    lost: list[str] = []

    @model_validator(mode="after")
    def _has_a_target(self) -> "Part":
        if self.kind == "about" and self.target is None and self.ran:
            raise ValueError("'about' needs a target")
        return self


class Decision(Outcome):
    """A claim's verdict for one score; its numbers are those of the part that decides, the weakest one.

    Attributes:
        id: `claim/score`, or the claim alone where it is decided once.
        claim: its name in `claims.yaml`.
        number: its place in the list of claims.
        text: what it says.
        source: who says so.
        section: id of the report's section that shows what it rests on.
        score: `top1` or `top5`, or None where it is decided once.
        level: of the interval. It is higher than 95 % where several parts could each have refuted the claim.
        p_holm: p corrected for all tested claims of the ledger (Holm); None where p is.
        survives_holm: whether a tested verdict for or against the claim is left after that; None where there is none.
        caution: what the claim's author wants read beside its numbers.
        missing: experiments that the study does not have.
        parts: the claim holds when all of them do.
    """

    id: str
    claim: str
    number: str
    text: str
    source: str
    section: str
    score: Literal["top1", "top5"] | None
    level: Probability = LEVEL
    p_holm: Probability | None = None
    survives_holm: bool | None = None
    caution: str = ""
    missing: list[str] = []
    parts: Annotated[list[Part], Field(min_length=1)]

    @property
    def worth(self) -> str:
        """What the verdict is worth, to stand beside it: `also after Holm`, `counted`; empty of what is not decided."""
        if self.basis == "too few seeds":
            return "too few seeds"
        if self.decided and self.basis == "counted":
            return "counted"
        return {True: "also after Holm", False: "not after Holm", None: ""}[self.survives_holm]

    @model_validator(mode="after")
    def _correction_agrees(self) -> "Decision":
        if (self.p is None) != (self.p_holm is None):
            raise ValueError("p and the corrected p belong together")
        left = self.p_holm is not None and self.p_holm <= ALPHA if self.decided and self.basis == "tested" else None
        if self.survives_holm != left:
            raise ValueError(f"survives_holm is {self.survives_holm} at a corrected p of {self.p_holm}")
        return self


def region(kind: Kind, margin: float = 0.0, target: Sequence[float] | None = None) -> tuple[float, float]:
    """Where the number of a comparison lies if it holds.

    `about x to y` is an equivalence claim: the interval has to stay within the margin of the stated range, at both
    ends. An interval of 0.1 to 4 supports no gain of "2.5 to 3", although it holds all of these gains: it holds gains
    that nobody would call by that name as well, and a vaguer measurement must never be better support than a sharp one.
    The margin is the difference that is said not to count, so a gain of 2.1 is still "about 2.5 to 3".

    Args:
        kind: the kind of comparison.
        margin: δ, the largest difference that does not count; of `calibration_kept` the tolerance.
        target: for `about`, the least and the largest gain.
    """
    match kind:
        case "better":
            return 0.0, math.inf
        case "not_worse":
            return -margin, math.inf
        case "nothing":
            return -margin, margin
        case "about":
            least, most = target or (0.0, 0.0)
            return least - margin, most + margin
        case "calibration_kept":
            return -math.inf, margin
        case _:
            return -math.inf, 0.0


class Judgement:
    """An estimate against the region of a claim."""

    def __init__(self, found: Estimate, kind: Kind, margin: float = 0.0, target: Sequence[float] | None = None):
        """What is tested; `region` explains the arguments."""
        self.found, self.kind = found, kind
        self.region = region(kind, margin, target)
        edges = [edge for edge in self.region if math.isfinite(edge)]
        nearest = min(edges, key=lambda edge: abs(found.value - edge))
        self.inside = self.region[0] < found.value < self.region[1]
        self.p = finite(found.p(nearest)) or 0.0

    @property
    def verdict(self) -> Verdict:
        """By the p value, which is the interval's; with fewer seeds than `FEWEST` nothing is concluded."""
        if self.found.n < FEWEST or self.p > ALPHA:
            return "inconclusive"
        return "supported" if self.inside else "contradicted"

    def part(self, text: str, target: list[float] | None = None, **more: object) -> Part:
        """The same as `claims.json` has it."""
        few = self.found.n < FEWEST
        return Part.model_validate(
            {
                "text": text,
                "kind": self.kind,
                "verdict": self.verdict,
                "basis": "too few seeds" if few else "tested",
                "estimate": finite(self.found.value),
                "interval": ends(self.found),
                "n": self.found.n,
                "df": finite(self.found.freedom),
                "p": None if few else self.p,
                "region": tuple(finite(edge) for edge in self.region),
                "target": target,
                "note": self._size() if self.kind == "about" and self.verdict == "contradicted" else "",
                **more,
            }
        )

    def _size(self) -> str:
        """In what a gain differs from the claimed one."""
        low, high = self.found.interval()
        if low <= 0:
            return "a loss" if high < 0 else "no such gain"
        return f"a gain, and a {'smaller' if high < self.region[0] else 'larger'} one than claimed"


def ends(found: Estimate, level: float = LEVEL) -> tuple[float | None, float | None] | None:
    """Both ends of an interval; None as a whole where there is no interval."""
    if not found.known:
        return None
    low, high = found.interval(level)
    return finite(low), finite(high)


def finite(value: float | None) -> float | None:
    """Ten significant digits, or None for what is infinite and so no JSON."""
    return float(f"{value:.10g}") if value is not None and math.isfinite(value) else None


Judged = tuple[Part, Judgement | None]
"""A part and, where it was sampled, what it was decided by."""


def conjunction(parts: Sequence[Judged]) -> dict[str, object]:
    """Verdict and numbers of a claim that holds when every part does: those of its weakest part.

    For the claim to be supported all parts have to be, and the least certain gives the p value, without any correction
    (Berger, Technometrics 24(4), 1982). One part that fails refutes the claim, but each had a chance to fail by
    accident, so its p value is multiplied by the number of tested parts (Bonferroni), and the interval is that of the
    level which belongs to that. What was counted decides without a p value, where it refutes or where nothing was
    tested.

    Returns:
        The fields of an `Outcome`, and `level`.
    """
    for verdict in ("not run", "not decided"):
        for part, _ in parts:
            if part.verdict == verdict:
                return {"verdict": verdict, "note": ", ".join(part.lost)}
    counted = [part for part, _ in parts if part.basis == "counted"]
    for part in counted:
        if part.verdict == "contradicted":
            return _numbers(part)
    tested = [(part, by) for part, by in parts if part.basis == "tested" and by is not None]
    refuted = [(by.p, part, by) for part, by in tested if not by.inside]
    if refuted:
        p, part, by = min(refuted, key=lambda one: one[0])
        p = finite(min(1.0, len(tested) * p)) or 0.0
        if p <= ALPHA or len(tested) == len(parts) - len(counted):
            level = 1 - ALPHA / len(tested)
            verdict = "contradicted" if p <= ALPHA else "inconclusive"
            changed = {"verdict": verdict, "p": p, "interval": ends(by.found, level), "level": finite(level)}
            return _numbers(part) | changed
    for part, _ in parts:
        if part.basis == "too few seeds" or (part.basis == "counted" and part.verdict == "inconclusive"):
            return _numbers(part)
    return _numbers(max((part for part, _ in tested), key=lambda part: part.p or 0.0) if tested else counted[0])


def _numbers(part: Part) -> dict[str, object]:
    return {name: getattr(part, name) for name in Outcome.model_fields}


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
