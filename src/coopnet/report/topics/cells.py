"""Cells and headings that tables of several topics share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report import starts
from coopnet.report.differences import Difference
from coopnet.report.document import Cell, Column
from coopnet.report.frames import PARTS, Tables
from coopnet.report.runs import mean, std
from coopnet.report.wording import DOT, interval, number, spread

WAITING = "waiting"
"""The kind of loss of a run that did not fail itself."""
FEW = 4
"""Results up to this many are named one by one in a sentence; more are summed up."""
DASH = Cell("–")

CONTROL = Column("minus control [95 %]", "top-1 (points)")


def anchor(experiment: str) -> str:
    """The id of an experiment's row in the table of all results."""
    return f"run-{experiment}"


def name(row: Mapping[str, Any]) -> Cell:
    """An experiment, which leads to its row in the table of all results, and how it starts."""
    return Cell(row["name"], starts.words(row["row"]), "code", anchor(row["name"]))


def counted(tables: Tables, experiment: str, n: int) -> Cell:
    """The number of seeds with results, and of all planned ones where some failed: `2`, below it `of 3: 1 failed`."""
    losses = [loss for loss in tables.losses if loss["experiment"] == experiment]
    if not losses:
        return Cell(str(n))
    waiting = sum(loss["kind"] == WAITING for loss in losses)
    parts = [f"{len(losses) - waiting} failed" if waiting < len(losses) else ""]
    parts += [f"{waiting} not run" if waiting else ""]
    return Cell(str(n), f"of {n + len(losses)}: {', '.join(filter(None, parts))}")


def over_seeds(values: Iterable[float], places: int = 2, *, sign: bool = False) -> Cell:
    """Mean ± standard deviation of the values there are; a dash for none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return Cell(spread(mean(known), std(known), places, sign=sign)) if known else DASH


def seeds(values: Iterable[float], places: int = 2, *, sign: bool = False) -> str:
    """Every seed's value, where there are several; nothing otherwise."""
    known = [float(value) for value in values if not math.isnan(value)]
    return DOT.join(number(value, places, sign=sign) for value in known) if len(known) > 1 else ""


def unfolded(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """What unfolds in a row, without what is empty."""
    return [(label, text) for label, text in pairs if text]


def to_control(one: Difference | None) -> Cell:
    """A difference to the control with its interval, and what the control is."""
    if one is None:
        return DASH
    value = number(one.estimate, sign=True)
    text = f"{value} {interval(*one.interval)}" if one.interval else value
    return Cell(text, "" if one.interval else "fewer than 3 seeds", value=one.estimate)


def part_headings(tables: Tables, first: Sequence[tuple[str, int]]) -> dict[int, str]:
    """The title of each part above its first experiment; none where all are of one part.

    Args:
        tables: the study's tables.
        first: experiments in the report's order, each with the row of the table in which it begins.
    """
    rows = dict(first)
    titles: dict[str, int] = {}
    for row in tables.ordered:
        if row["name"] in rows:
            titles.setdefault(PARTS.get(row["part"], row["part"]), rows[row["name"]])
    return {place: title for title, place in titles.items()} if len(titles) > 1 else {}
