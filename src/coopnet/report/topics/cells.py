"""Cells and headings that tables of several topics share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report import starts
from coopnet.report.differences import Difference
from coopnet.report.document import Cell
from coopnet.report.frames import PARTS, Tables
from coopnet.report.runs import mean, std
from coopnet.report.wording import DOT, interval, number, spread

WAITING = "waiting"
"""The kind of a missing run that did not fail itself."""
FEW = 4
"""Most results that a sentence names one by one; more are summarised."""
DASH = Cell("–")


def anchor(experiment: str) -> str:
    """The id of an experiment's row in the table of all results."""
    return f"run-{experiment}"


def name(row: Mapping[str, Any]) -> Cell:
    """An experiment with its start; it links to its row in the table of all results."""
    return Cell(row["name"], starts.words(row["row"]), "code", anchor(row["name"]))


def counted(tables: Tables, experiment: str, n: int) -> Cell:
    """The number of seeds with results; if some failed, also of all planned seeds: `2`, below it `of 3: 1 failed`."""
    missing = [one for one in tables.missing_runs if one["experiment"] == experiment]
    if not missing:
        return Cell(str(n))
    waiting = sum(one["kind"] == WAITING for one in missing)
    parts = [f"{len(missing) - waiting} failed" if waiting < len(missing) else ""]
    parts += [f"{waiting} not run" if waiting else ""]
    return Cell(str(n), f"of {n + len(missing)}: {', '.join(filter(None, parts))}")


def over_seeds(values: Iterable[float], places: int = 2, *, sign: bool = False) -> Cell:
    """Mean ± standard deviation of the values; a dash if there are none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return Cell(spread(mean(known), std(known), places, sign=sign)) if known else DASH


def seeds(values: Iterable[float], places: int = 2, *, sign: bool = False) -> str:
    """Every seed's value, if there are several seeds."""
    known = [float(value) for value in values if not math.isnan(value)]
    return DOT.join(number(value, places, sign=sign) for value in known) if len(known) > 1 else ""


def unfolded(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """The details that unfold in a row, without empty ones."""
    return [(label, text) for label, text in pairs if text]


def to_control(one: Difference | None) -> Cell:
    """A difference to the control with its interval; if no claim tests it, the interval is over seeds alone."""
    if one is None:
        return DASH
    value, remark = number(one.estimate, sign=True), "" if one.claims else "over seeds alone"
    ends = one.interval
    return Cell(
        f"{value} {interval(*ends)}" if ends else value, remark if ends else "fewer than 3 seeds", value=one.estimate
    )


def part_headings(tables: Tables, first: Sequence[tuple[str, int]]) -> dict[int, str]:
    """The title of each part above its first experiment; empty if all experiments are of one part.

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
