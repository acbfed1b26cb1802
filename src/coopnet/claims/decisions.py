"""Verdicts: how they are decided, and the models of `claims.json`.

`claims.json` is a list with one `Decision` per claim and score, in the order of `claims.yaml`; a claim about accuracy
is decided for top-1 and for top-5. The same models write the file and read it.

Every comparison has a **region**: its number lies there if the claim is true.

| kind | region | the claim is supported if the interval lies |
| --- | --- | --- |
| `better` | above 0 | above 0 |
| `not_worse` | above −margin | above −margin (non-inferiority) |
| `nothing` | −margin to margin | inside (equivalence) |
| `about` | least − margin to most + margin | inside (equivalence with the claimed gain) |
| `less`, costs | below 0 | below 0 |
| `calibration_kept` | below the tolerance | below the tolerance |

A claim is *supported* if the 95 % interval lies inside the region, *contradicted* if it lies outside, and
*inconclusive* if it contains an edge of the region. The two-sided p value is that of the edge nearest to the estimate:
p ≤ 0.05 exactly if the interval contains no edge, so exactly if the claim is decided. The error rate is therefore 2.5 %
for support and 2.5 % for contradiction, as usual in a non-inferiority test. `nothing` and `about` are two one-sided
tests (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15(6), 1987) at 2.5 % each; 5 % is usual.

The **basis** of a verdict says how it was reached. *Tested*: from a sample, with a p value. *Counted*: from what
happened in these runs, without a p value. *Too few seeds*: there were too few to test it. Tested and counted verdicts
are never added up.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coopnet.claims.entries import Compared, Costs, Keeps
from coopnet.claims.inference import ALPHA, LEVEL, Estimate

Verdict = Literal["supported", "contradicted", "inconclusive", "not decided", "not run"]
"""`not run`: the study lacks an experiment. `not decided`: a needed run failed.

The remaining seeds do not decide the claim, because failed seeds are not a random choice.
"""

Basis = Literal["tested", "counted", "too few seeds"]
Kind = Literal[Compared, Keeps, Costs]
Unit = Literal["points", "images", "nats", "ECE points", "epochs", "change"]
Ends = Annotated[tuple[float | None, float | None], Field(strict=False)]
"""Lower and upper end; None is an infinite end."""
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

FEWEST = 3
"""Least number of seeds for a verdict about networks in general."""


class Measured(BaseModel):
    """An estimate and its interval.

    A plain count has no interval, an infinite estimate is None, and a claim that was not run has neither.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    estimate: float | None = None
    interval: Ends | None = None

    @model_validator(mode="after")
    def _ends_in_order(self) -> "Measured":
        low, high = self.interval or (None, None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"the interval {list(self.interval or ())} has its lower end above its upper end")
        return self


class Outcome(Measured):
    """The result of one comparison or of a whole claim.

    Attributes:
        verdict: decided by the interval or by counting.
        basis: how the verdict was reached; None if nothing was run.
        unit: unit of estimate and interval.
        n: number of replicates, of the smaller group if there are two.
        df: effective degrees of freedom over seeds and images; None without an interval or without variance.
        over_images: whether the interval is the one over images alone, because that is the wider or the only one.
        p: two-sided p value; None if nothing was tested.
        paired: whether the replicates are paired; None if no replicates are compared.
        region: range of the estimate for which the claim is true; None if nothing is sampled.
        given: conditions of the interval, such as one split of the images for all seeds.
        note: a remark for the reader.
    """

    verdict: Verdict
    basis: Basis | None = None
    unit: Unit = "points"
    n: Count = 0
    df: Annotated[float, Field(gt=0)] | None = None
    over_images: bool = False
    p: Probability | None = None
    paired: bool | None = None
    region: Ends | None = None
    given: list[str] = []
    note: str = ""

    @property
    def has_results(self) -> bool:
        """Whether the study has the results that the verdict needs."""
        return self.verdict not in ("not decided", "not run")

    @property
    def decided(self) -> bool:
        """Whether the verdict is `supported` or `contradicted`."""
        return self.verdict in ("supported", "contradicted")

    @model_validator(mode="after")
    def _interval_p_and_verdict_agree(self) -> "Outcome":
        if self.has_results == (self.basis is None):
            raise ValueError(f"it is {self.verdict}, on the basis of {self.basis or 'nothing'}")
        if (self.basis == "tested") != (self.p is not None):
            raise ValueError("a tested verdict has a p value, and no other verdict has one")
        if self.p is not None and self.decided != (self.p <= ALPHA):
            raise ValueError(f"it is {self.verdict} at p = {self.p}")
        if self.has_results and not ((self.estimate is not None or self.note) and self.n):
            raise ValueError(f"it is {self.verdict}, but lacks an estimate or replicates")
        if not self.has_results and (self.estimate, self.interval, self.n) != (None, None, 0):
            raise ValueError(f"it is {self.verdict}, but has numbers")
        return self


class Part(Outcome):
    """One of the statements that must all hold.

    Attributes:
        text: the networks that are compared.
        kind: the kind of the statement.
        beside: further numbers that are shown next to it, by name.
        target: the gain that a claim of kind `about` states.
        missing: experiments that the study does not have.
        lost: a message for every needed run without results.
    """

    text: str
    kind: Kind
    beside: dict[str, Measured] = {}
    target: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    missing: list[str] = []
    lost: list[str] = []

    @model_validator(mode="after")
    def _has_a_target(self) -> "Part":
        if self.kind == "about" and self.target is None and self.has_results:
            raise ValueError("'about' needs a target")
        return self


class Decision(Outcome):
    """A claim's verdict for one score, with the numbers of its weakest part, which decides.

    Attributes:
        id: `claim/score`, or the claim alone if it is decided once.
        claim: its name in `claims.yaml`.
        number: its place in the list of claims.
        text: the claim as a sentence.
        source: who claims it.
        section: id of the report's section with the evidence.
        score: `top1` or `top5`; None if the claim is decided once.
        level: level of the interval. It is above 95 % if each of several parts could have refuted the claim.
        p_holm: p after Holm's correction for all verdicts of the ledger that are tested or still to be tested; None if
            p is None.
        survives_holm: whether a tested, decided verdict is still decided after the correction; None for all others.
        caution: a caveat beside the claim's numbers.
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
    def qualifier(self) -> str:
        """The note beside a verdict: `also after Holm`, `not after Holm`, `counted`, `too few seeds`, or nothing."""
        if self.basis == "too few seeds":
            return "too few seeds"
        if self.decided and self.basis == "counted":
            return "counted"
        return {True: "also after Holm", False: "not after Holm", None: ""}[self.survives_holm]

    @model_validator(mode="after")
    def _correction_agrees(self) -> "Decision":
        if (self.p is None) != (self.p_holm is None):
            raise ValueError("p and p_holm must both be there, or neither")
        left = self.p_holm is not None and self.p_holm <= ALPHA if self.decided and self.basis == "tested" else None
        if self.survives_holm != left:
            raise ValueError(f"survives_holm is {self.survives_holm} at a corrected p of {self.p_holm}")
        return self


def region(kind: Kind, margin: float = 0.0, target: Sequence[float] | None = None) -> tuple[float, float]:
    """The range of a comparison's number for which the claim is true.

    `about x to y` is an equivalence claim: the interval must not leave the stated range by more than the margin. An
    interval of 0.1 to 4 does not support a gain of "2.5 to 3", although it contains that range: it also contains much
    smaller and larger gains. A less precise measurement must not be better support. Differences up to the margin do not
    count, so a gain of 2.1 is still "about 2.5 to 3".

    Args:
        kind: the kind of comparison.
        margin: δ, the largest difference that does not count; for `calibration_kept`, the tolerance.
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
    """An estimate compared with the region of a claim."""

    def __init__(self, found: Estimate, kind: Kind, margin: float = 0.0, target: Sequence[float] | None = None):
        """Compare `found` with the region; `region` explains the other arguments."""
        self.found, self.kind = found, kind
        self.region = region(kind, margin, target)
        edges = [edge for edge in self.region if math.isfinite(edge)]
        nearest = min(edges, key=lambda edge: abs(found.value - edge))
        self.inside = self.region[0] < found.value < self.region[1]
        self.p = finite(found.p(nearest)) or 0.0

    @property
    def verdict(self) -> Verdict:
        """Decided by the p value, which agrees with the interval; `inconclusive` with fewer seeds than `FEWEST`."""
        if self.found.n < FEWEST or self.p > ALPHA:
            return "inconclusive"
        return "supported" if self.inside else "contradicted"

    def part(self, text: str, target: list[float] | None = None, **more: object) -> Part:
        """The judgement as a part of a claim in `claims.json`."""
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
                "over_images": self.found.over_images(),
                "p": None if few else self.p,
                "region": tuple(finite(edge) for edge in self.region),
                "target": target,
                "note": self._size() if self.kind == "about" and self.verdict == "contradicted" else "",
                **more,
            }
        )

    def _size(self) -> str:
        """How the gain differs from the claimed gain."""
        low, high = self.found.interval()
        if low <= 0:
            return "a loss" if high < 0 else "no such gain"
        return f"a gain, and a {'smaller' if high < self.region[0] else 'larger'} one than claimed"


def ends(found: Estimate, level: float = LEVEL) -> tuple[float | None, float | None] | None:
    """Both ends of an interval; None if there is no interval."""
    if not found.known:
        return None
    low, high = found.interval(level)
    return finite(low), finite(high)


def finite(value: float | None) -> float | None:
    """The value to ten significant digits; None if it is infinite, which JSON does not allow."""
    return float(f"{value:.10g}") if value is not None and math.isfinite(value) else None


Judged = tuple[Part, Judgement | None]
"""A part and its judgement; None if it was not sampled."""


def conjunction(parts: Sequence[Judged]) -> dict[str, object]:
    """Verdict and numbers of a claim that holds if every part does: those of its weakest part.

    The claim is supported if all parts are. The least certain part gives the p value, without any correction (Berger,
    Technometrics 24(4), 1982). One part that fails refutes the claim. Each part could fail by chance, so the p value is
    multiplied by the number of sampled parts (Bonferroni), and the interval has the corresponding level. A counted part
    decides without a p value if it refutes the claim or if no part was tested.

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
        sampled = sum(by is not None for _, by in parts)  # also those on too few seeds: they may refute the claim later
        p = finite(min(1.0, sampled * p)) or 0.0
        if p <= ALPHA or len(tested) == len(parts) - len(counted):
            level = 1 - ALPHA / sampled
            verdict = "contradicted" if p <= ALPHA else "inconclusive"
            changed = {"verdict": verdict, "p": p, "interval": ends(by.found, level), "level": finite(level)}
            return _numbers(part) | changed | {"over_images": by.found.over_images(level)}
    few = [one for one in parts if one[0].basis != "tested" and not one[0].decided]
    if few:
        return _numbers(min(few, key=_certainty)[0])
    return _numbers(max((part for part, _ in tested), key=lambda part: part.p or 0.0) if tested else counted[0])


def _certainty(one: Judged) -> tuple[bool, float]:
    """The order of parts without a verdict: what was not sampled, then parts outside of their region, then inside.

    Outside of its region the part with the smallest p comes first, and inside of it last.
    """
    _, by = one
    return (False, -1.0) if by is None else (by.inside, -by.p if by.inside else by.p)


def _numbers(part: Part) -> dict[str, object]:
    return {name: getattr(part, name) for name in Outcome.model_fields}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values corrected for all tests together; None marks an entry without a test and stays None.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2), 1979: the
    k-th smallest of m is multiplied by m − k + 1, and no result is smaller than the one before it.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected, largest = dict[int, float](), 0.0
    for k, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - k) * p))
        corrected[place] = largest
    return [corrected.get(place) for place in range(len(p_values))]
