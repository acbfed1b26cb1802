"""Accuracy against the operations of training."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, ENSEMBLE, GOOD, INK, LEGEND_ABOVE, NEUTRAL, WIDTH
from coopnet.report.wording import power

KINDS = {
    "scratch": (BRANCH, "o", "white", "trained from scratch"),
    "descended": (ENSEMBLE, "D", ENSEMBLE, "made of trained networks"),
    "together": (GOOD, "s", "white", "plain ensemble"),
}
"""Colour, marker, its filling, and name of each kind."""
LETTER, LINE = 4.6, 10.0
"""Width of a letter and height of a line, in points."""


def draw(points: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> Figure:
    """A mark per experiment, and a line through those that no cheaper one equals.

    Args:
        points: `experiment`, `lineage_flops`, `top1` (%) and `kind`.
        panels: experiments by the title of their panel; accuracies of different data have no common axis.
    """
    figure = drawing.canvas(WIDTH, 0.7 + 3.1 * len(panels))
    grid = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (title, names) in zip(grid, panels.items(), strict=True):
        own = points[points["experiment"].isin(names)]
        for kind, (colour, marker, face, _) in KINDS.items():
            chosen = own[own["kind"] == kind]
            axes.scatter(
                chosen["lineage_flops"], chosen["top1"], s=26, marker=marker, c=face, edgecolors=colour, linewidths=1.3
            )
        axes.set(xscale="log", ylabel="test top-1 (%)", title=title if len(panels) > 1 else "")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
        axes.margins(x=0.12, y=0.12)
    grid[-1].set_xlabel("FLOPs of training, with all ancestors")
    handles = [
        Line2D([], [], color=colour, marker=marker, mfc=face, ls="", ms=5.5, label=label)
        for kind, (colour, marker, face, label) in KINDS.items()
        if (points["kind"] == kind).any()
    ]
    figure.legend(handles=handles, **{**LEGEND_ABOVE, "bbox_to_anchor": (0.06, 1.0)}, ncols=len(handles))
    figure.tight_layout(h_pad=1.2)
    for axes, names in zip(grid, panels.values(), strict=True):
        _line(axes, frontier(points[points["experiment"].isin(names)]))
    return figure


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Those that are more accurate than every cheaper one, and than every other as cheap; from the cheapest."""
    ordered = points.sort_values(["lineage_flops", "top1"], ascending=[True, False], kind="stable")
    before = ordered["top1"].cummax().shift(fill_value=-1.0)
    return ordered[ordered["top1"] > before]


def _line(axes: Axes, best: pd.DataFrame) -> None:
    """The line, and names from the most accurate down: to the left of their marks, where nothing is by definition.

    A name that would run into the one above it, or out of the axes, is left out.
    """
    axes.plot(best["lineage_flops"], best["top1"], color=NEUTRAL, linewidth=1.0, zorder=0)
    scale = 72 / axes.figure.dpi  # points
    edge, beside, above = axes.bbox.x0 * scale, math.inf, math.inf
    for name, x, y in best[["experiment", "lineage_flops", "top1"]].iloc[::-1].itertuples(index=False):
        right, height = axes.transData.transform((x, y)) * scale
        left = right - LETTER * len(name)
        if left < edge or (above - height < LINE and right > beside):
            continue
        beside, above = left, height
        axes.annotate(
            name, (x, y), (-5, 3), textcoords="offset points", ha="right", va="bottom", fontsize=7.0, color=INK
        )


def _written(value: float) -> str:
    """`2 × 10¹⁵`."""
    digit, exponent = f"{value:.0e}".split("e")
    return power(int(exponent)) if digit == "1" else f"{digit} × {power(int(exponent))}"
