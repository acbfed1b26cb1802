"""The ledger as a picture: the interval that decided each claim."""

import itertools
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, GOOD, GRID, INK, NEUTRAL, WIDTH
from coopnet.report.ledger import SCORES, SYMBOLS, Claim, Decision
from coopnet.report.wording import MINUS

CLAIMS = 24
"""Claims in one figure, at most: as many as a page shows legibly."""
LINEAR = 5.0
"""Points up to which the axis is linear: one gain of thirty must not flatten all the small ones."""
TICKS = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100)
LETTERS = 62
"""Of a claim's text in one line."""
TEXT, AXIS = 3.75, 4.75
"""Inches of the claims' text and of the axis beside it."""

SHAPES = {"top1": "o", "top5": "s", None: "^"}
COLOURS = {"supported": (GOOD, GOOD), "contradicted": (BRANCH, "white"), "inconclusive": (NEUTRAL, "white")}
"""Of a verdict's outline and of its filling; a contradicted one has a cross, too."""


def pages(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Claims with something to draw, by the name of their figure: as few figures as possible, evenly filled."""
    shown = [claim for claim in claims if any(decision.plotted for decision in claim.decisions)]
    figures = -(-len(shown) // CLAIMS)
    bounds = [len(shown) * page // figures for page in range(figures + 1)] if figures else []
    return {
        "claims" if page == 1 else f"claims_{page}": shown[first:last]
        for page, (first, last) in enumerate(itertools.pairwise(bounds), start=1)
    }


def reach(claims: Sequence[Claim]) -> tuple[float, float]:
    """The lowest and the highest value that is drawn (points); zero is always between them."""
    shown = [decision for claim in claims for decision in claim.decisions if decision.plotted]
    values = [value for decision in shown for value in (decision.estimate, *(decision.interval or [])) if value]
    margins = [sign * decision.margin for decision in shown if decision.margin for sign in (-1, 1)]
    return min([*values, *margins, -1.0]), max([*values, *margins, 1.0])


def draw(claims: Sequence[Claim], limits: tuple[float, float]) -> Figure:
    """Estimate and interval of each claim, a line per score.

    Args:
        claims: those of this figure, from top to bottom.
        limits: the axis's ends, in points.
    """
    pitch = drawing.pitch(len(claims), 1.25, 0.4)
    height = pitch * len(claims)
    figure = drawing.canvas(WIDTH, height + 1.25)
    axes = figure.add_axes((TEXT / WIDTH, 0.55 / (height + 1.25), AXIS / WIDTH, height / (height + 1.25)))
    _scale(axes, limits)
    axes.set_ylim(len(claims) - 0.5, -0.5)
    axes.set_yticks([])
    axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
    beside = blended_transform_factory(figure.transFigure, axes.transData)
    for row, claim in enumerate(claims):
        if row:
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
        axes.text(0.0, row, claim.number, transform=beside, va="center", size=7.5, weight="bold")
        axes.text(0.042, row, _shortened(claim.text), transform=beside, va="center", size=7, linespacing=1.15)
        shown = [decision for decision in claim.decisions if decision.plotted]
        for place, decision in enumerate(shown):
            y = row + (place - (len(shown) - 1) / 2) * 0.42
            _line(axes, decision, y)
            axes.text(0.985, y, SYMBOLS[decision.verdict], transform=beside, va="center", ha="center", size=8)
    _legend(figure, claims)
    return figure


def _scale(axes: Axes, limits: tuple[float, float]) -> None:
    low, high = limits
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.6)
    axes.set_xlim(1.06 * low, 1.06 * high)
    ticks = [sign * tick for tick in TICKS for sign in (-1, 1) if low <= sign * tick <= high and (tick or sign > 0)]
    if max(-low, high) > 2 * LINEAR:  # the odd ones of a crowded axis
        ticks = [tick for tick in ticks if abs(tick) not in (3, 4)]
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{MINUS if value < 0 else ''}{abs(value):.0f}")
    beyond = f"; logarithmic beyond ±{LINEAR:.0f}" if max(-low, high) > LINEAR else ""
    axes.set_xlabel(f"difference (percentage points{beyond})")


def _shortened(text: str) -> str:
    """Two lines at most; the table above has all of it."""
    lines = wrap(text, LETTERS, max_lines=2, placeholder=" …")
    return "\n".join(lines)


def _line(axes: Axes, decision: Decision, y: float) -> None:
    """Interval, estimate, and the margins that the interval was held against."""
    colour, face = COLOURS[decision.verdict]
    if decision.interval:
        ends = [end if bound is None else bound for bound, end in zip(decision.interval, axes.get_xlim(), strict=True)]
        axes.plot(ends, [y, y], color=colour, linewidth=1.5, zorder=2)
    for margin in _margins(decision):
        axes.plot([margin, margin], [y - 0.17, y + 0.17], color=INK, linewidth=1.6, zorder=2)
    mark: dict[str, Any] = {"marker": SHAPES[decision.score], "markersize": 5.3, "markeredgewidth": 1.3}
    at: Any = decision.estimate  # which every verdict on the axis has
    axes.plot(at, y, color=colour, markerfacecolor=face, zorder=3, **mark)
    if decision.verdict == "contradicted":
        axes.plot(at, y, color=colour, marker="x", markersize=3.3, zorder=4)


def _margins(decision: Decision) -> list[float]:
    """Where the margin lies that the deciding part has."""
    kind = decision.deciding.kind if decision.deciding else None
    if decision.margin is None or kind not in ("not_worse", "nothing"):
        return []
    return [-decision.margin] if kind == "not_worse" else [-decision.margin, decision.margin]


def _legend(figure: Figure, claims: Sequence[Claim]) -> None:
    """Shapes and verdicts that the figure has, in two lines above it."""
    shown = [decision for claim in claims for decision in claim.decisions if decision.plotted]
    scores = [
        (Line2D([], [], color=INK, marker=marker, mfc="white", ls="", ms=5.5), SCORES[score])
        for score, marker in SHAPES.items()
        if any(decision.score == score for decision in shown)
    ]
    if any(_margins(decision) for decision in shown):
        scores.append((Line2D([], [], color=INK, marker="|", ls="", ms=8, mew=1.6), "margin δ"))
    verdicts: list[tuple[Any, str]] = []
    for verdict, (colour, face) in COLOURS.items():
        if any(decision.verdict == verdict for decision in shown):
            mark = Line2D([], [], color=colour, marker="o", mfc=face, lw=1.5, ms=5.5)
            cross = Line2D([], [], color=colour, marker="x", ls="", ms=3.5)
            handle = (mark, cross) if verdict == "contradicted" else mark
            verdicts.append((handle, f"{SYMBOLS[verdict]} {verdict}"))
    height = figure.get_size_inches()[1]
    for named, above in ((verdicts, 0.08), (scores, 0.32)):
        handles, labels = zip(*named, strict=True)
        place = (TEXT / WIDTH, 1 - above / height)
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=place, ncols=len(named), borderaxespad=0.0)
