"""The claims ledger of a study, read back from the file that `coopnet claims` wrote.

A claim about accuracy is decided for top-1 and for top-5; each of them is one `Decision`. This module only reads
decisions. `coopnet.claims.decisions` defines the file's models for both the writer and the reader.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from coopnet import files
from coopnet.claims.decisions import Decision, Part
from coopnet.files.errors import CoopNetError

SYMBOLS = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not decided": "!", "not run": "–"}
"""The sign of each verdict, in the order in which verdicts are counted."""
SCORES = {"top1": "top-1", "top5": "top-5", None: "decided once"}


class Pair(NamedTuple):
    """The two networks that a part compares, and which model of each; the ensemble is the empty string."""

    of: str
    model: str
    than: str
    than_model: str


COMPARED = re.compile(r"(?P<of>\w+)(, (?P<model>[\w ]+))? \u2212 (?P<than>\w+)(, (?P<than_model>[\w ]+))?")


def pair(part: Part) -> Pair | None:
    """The networks that a part compares at the end of training; None if it does not compare one with one."""
    found = COMPARED.fullmatch(part.text)
    return Pair(*(found[name] or "" for name in Pair._fields)) if found else None


@dataclass(frozen=True)
class Claim:
    """A claim with its decisions: one per score, or a single one."""

    decisions: list[Decision]

    @property
    def main(self) -> Decision:
        """The decision that stands for the claim: the one for top-1, or the only one. All have its number and text."""
        return next((one for one in self.decisions if one.score != "top5"), self.decisions[0])

    @property
    def question(self) -> int:
        """The number of the question that the claim answers: the leading digits of its own number."""
        digits = re.match(r"\d+", self.main.number)
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
    """`one_over_baseline/top1, parts.0.kind: `: the entry by its id, if it has one."""
    if not location or not isinstance(content, list):
        return ""
    index, *fields = location
    entry = content[int(index)]
    name = entry["id"] if isinstance(entry, dict) and isinstance(entry.get("id"), str) else f"entry {index}"
    return ", ".join([name, ".".join(map(str, fields))] if fields else [name]) + ": "


def _by_claim(decisions: Sequence[Decision]) -> list[Claim]:
    """Claims in the file's order.

    Raises:
        ValueError: the entries of a claim are not adjacent, describe different claims, or decide a score twice.
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
