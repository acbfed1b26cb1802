"""The claims ledger of a study, read back from the file that `coopnet claims` wrote.

A claim about accuracy is decided for top-1 and for top-5; each of them is one `Decision`. What is decided, and how, is
none of this module's business: it checks that the file has the form that the report relies on.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from coopnet import files
from coopnet.files.errors import CoopNetError

SYMBOLS = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not decided": "!", "not run": "–"}
"""Verdicts, in the order in which they are counted, and the sign that says the same."""
SCORES = {"top1": "top-1", "top5": "top-5", None: "decided once"}
FEWEST = 3
"""Seeds; what rests on fewer is not decided."""

UNDECIDED = ("not decided", "not run")
"""Verdicts without any number: a run that is needed failed, or the study lacks an experiment."""

Verdict = Literal["supported", "contradicted", "inconclusive", "not decided", "not run"]
Comparison = Literal["better", "not_worse", "nothing", "about"]
Kept = Literal["kept", "predictions_kept", "calibration_kept"]
Cost = Literal["less", "fewer_epochs", "less_compute", "less_compute_to_target"]
Unit = Literal["points", "images", "nats", "epochs", "change"]
Interval = Annotated[list[float | None], Field(min_length=2, max_length=2)]
"""Lower and upper bound; None is an infinite one."""
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Measured(BaseModel):
    """An estimate and its interval.

    There is no interval where the estimate is a plain count, no estimate where it is infinite, and neither where
    nothing was run.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    estimate: float | None = None
    interval: Interval | None = None

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Measured":
        low, high = self.interval or (None, None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"the interval {self.interval} is upside down")
        return self


class Part(Measured):
    """One of the statements that must all hold; `unit` where it is not that of the whole decision."""

    text: str
    kind: Comparison | Kept | Cost
    target: Annotated[list[float], Field(min_length=1, max_length=2)] | None = None
    unit: Unit | None = None
    n: Count
    paired: bool | None
    verdict: Verdict
    p: Probability | None
    note: str = ""
    beside: dict[str, Measured]

    @model_validator(mode="after")
    def _aims(self) -> "Part":
        if self.kind == "about" and self.target is None and self.verdict not in UNDECIDED:
            raise ValueError("'about' needs a target")
        return self


class Pair(NamedTuple):
    """The two networks that a part compares, with the part of each that is meant; the ensemble has no name."""

    of: str
    model: str
    than: str
    than_model: str


COMPARED = re.compile(r"(?P<of>\w+)(, (?P<model>[\w ]+))? \u2212 (?P<than>\w+)(, (?P<than_model>[\w ]+))?")


def pair(part: Part) -> Pair | None:
    """What a part compares at the end of training; None where it is not one network with one other."""
    found = COMPARED.fullmatch(part.text)
    return Pair(*(found[name] or "" for name in Pair._fields)) if found else None


class Decision(Measured):
    """A claim's verdict for one score: the estimate is that of the part that decides, in `unit`."""

    id: str
    claim: str
    number: str
    text: str
    source: str
    score: Literal["top1", "top5"] | None
    verdict: Verdict
    holm: Verdict
    unit: Unit
    n: Count
    p: Probability | None
    p_holm: Probability | None
    margin: Annotated[float, Field(ge=0)] | None
    note: str
    missing: list[str]
    section: str
    parts: list[Part]

    @property
    def ran(self) -> bool:
        """Whether the study has the results that the claim needs."""
        return self.verdict not in UNDECIDED

    @property
    def decided(self) -> bool:
        """Whether it is supported or contradicted."""
        return self.verdict in ("supported", "contradicted")

    @property
    def tested(self) -> bool:
        """Whether that was decided by a test, which Holm's correction concerns, and not by counting."""
        return self.decided and self.p_holm is not None

    @property
    def plotted(self) -> bool:
        """Whether it has a place on an axis of percentage points."""
        return self.ran and self.unit == "points" and self.estimate is not None

    @property
    def deciding(self) -> Part | None:
        """The part whose estimate the decision reports."""
        return next((part for part in self.parts if self._reports(part)), None)

    def _reports(self, part: Part) -> bool:
        return (part.estimate, part.interval) == (self.estimate, self.interval)

    @model_validator(mode="after")
    def _numbers_where_run(self) -> "Decision":
        explained = self.estimate is not None or self.note
        if self.ran and not (explained and self.n and self.parts):
            raise ValueError(f"it is {self.verdict}, but lacks an estimate, a replicate or a part")
        if not self.ran and (self.estimate, self.interval, self.p, self.p_holm, self.n) != (None, None, None, None, 0):
            raise ValueError(f"it is {self.verdict}, but has numbers")
        return self

    @model_validator(mode="after")
    def _margin_where_used(self) -> "Decision":
        if self.margin is None and any(part.kind in ("not_worse", "nothing") for part in self.parts):
            raise ValueError("a part is decided by a margin, and there is none")
        return self


@dataclass(frozen=True)
class Claim:
    """A claim with its decisions: one per score, or a single one."""

    decisions: list[Decision]

    @property
    def number(self) -> str:
        """Its number in the list of claims."""
        return self.decisions[0].number

    @property
    def text(self) -> str:
        """What it says."""
        return self.decisions[0].text

    @property
    def source(self) -> str:
        """Who says so."""
        return self.decisions[0].source

    @property
    def section(self) -> str:
        """The id of the report's section that it rests on."""
        return self.decisions[0].section

    @property
    def main(self) -> Decision:
        """The decision that speaks for the claim: for top-1, or the only one."""
        return next((one for one in self.decisions if one.score != "top5"), self.decisions[0])

    @property
    def question(self) -> int:
        """The question that it answers with others: the leading digits of its number."""
        digits = re.match(r"\d+", self.number)
        return int(digits[0]) if digits else 0


def load(path: Path, study: str) -> list[Claim]:
    """Read a study's ledger.

    Args:
        path: `results/<study>/claims.json`.
        study: the study's name.

    Raises:
        CoopNetError: the file is missing, damaged or of another form.
    """
    remedy = f"run `coopnet claims {study}`"
    if not path.is_file():
        raise CoopNetError(f"{path} is missing; {remedy} first")
    content = files.read_json(path)
    try:
        decisions = TypeAdapter(list[Decision]).validate_python(content)
        return _by_claim(decisions)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = _place(first["loc"], content)
        raise CoopNetError(f"{path} is damaged: {where}{first['msg']}; {remedy} again") from None
    except ValueError as error:
        raise CoopNetError(f"{path} is damaged: {error}; {remedy} again") from None


def _place(location: Sequence[int | str], content: object) -> str:
    """`one_over_baseline/top1, parts.0.kind: `: the entry by its id where it has one."""
    if not location or not isinstance(content, list):
        return ""
    index, *fields = location
    entry = content[int(index)]
    name = entry["id"] if isinstance(entry, dict) and isinstance(entry.get("id"), str) else f"entry {index}"
    return ", ".join([name, ".".join(map(str, fields))] if fields else [name]) + ": "


def _by_claim(decisions: Sequence[Decision]) -> list[Claim]:
    """Claims in the file's order.

    Raises:
        ValueError: the entries of a claim are apart, disagree on what it is, or decide a score twice.
    """
    claims = [Claim(list(group)) for _, group in itertools.groupby(decisions, key=lambda decision: decision.claim)]
    names = [claim.decisions[0].claim for claim in claims]
    for claim, name in zip(claims, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{name}: its entries are not together")
        if len({(one.number, one.text, one.source, one.section) for one in claim.decisions}) > 1:
            raise ValueError(f"{name}: its entries disagree on what the claim is")
        scores = [one.score for one in claim.decisions]
        if len(set(scores)) < len(scores) or (None in scores and len(scores) > 1):
            raise ValueError(f"{name}: a score is decided twice")
    return claims
