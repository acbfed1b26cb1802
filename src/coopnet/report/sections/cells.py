"""Cells and headings that tables of several sections share."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from coopnet.report import starts
from coopnet.report.document import Cell
from coopnet.report.frames import PARTS, Tables
from coopnet.report.runs import mean, std
from coopnet.report.wording import DOT, number, spread

WAITING = "waiting"
"""The kind of loss of a run that did not fail itself."""
FEW = 4
"""Results up to this many are named one by one in a sentence; more are summed up."""


def name(tables: Tables, row: Mapping[str, Any]) -> Cell:
    """An experiment, its network, and its data where it is not what most of the study has."""
    what = f"{row['network']}, B = {row['branches']}"
    if starts.is_plain_ensemble(row["row"]):
        what = f"{row['backbone']}: {starts.words(row['row'])}"
    data = [tables.data(other) for other in tables.experiments]
    own = tables.data(row)
    return Cell(row["name"], what if own == max(data, key=data.count) else f"{what}; {own}", "code")


def counted(tables: Tables, experiment: str, n: int) -> Cell:
    """How many seeds count, and of how many where some are lost: `2`, below it `of 3: 1 failed`."""
    losses = [loss for loss in tables.losses if loss["experiment"] == experiment]
    if not losses:
        return Cell(str(n))
    waiting = sum(loss["kind"] == WAITING for loss in losses)
    parts = [f"{len(losses) - waiting} failed" if waiting < len(losses) else ""]
    parts += [f"{waiting} not run" if waiting else ""]
    return Cell(str(n), f"of {n + len(losses)}: {', '.join(filter(None, parts))}")


def over_seeds(values: Iterable[float], places: int = 2, *, sign: bool = False) -> Cell:
    """Mean ± standard deviation of the values there are, each of them below; a dash for none."""
    known = [float(value) for value in values if not math.isnan(value)]
    if not known:
        return Cell("–")
    detail = DOT.join(number(value, places, sign=sign) for value in known) if len(known) > 1 else ""
    return Cell(spread(mean(known), std(known), places, sign=sign), detail)


def part_headings(tables: Tables, first: Mapping[str, int]) -> dict[int, str]:
    """The title of each part above its first experiment; none where all are of one part.

    Args:
        tables: the study's tables.
        first: the row of the table in which each experiment begins, in the order of `tables.ordered`.
    """
    titles: dict[str, int] = {}
    for row in tables.ordered:
        if row["name"] in first:
            titles.setdefault(PARTS.get(row["part"], row["part"]), first[row["name"]])
    return {place: title for title, place in titles.items()} if len(titles) > 1 else {}
