"""Step 0 of growth: changed predictions and calibration."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, GOOD, LEGEND_ABOVE, WIDTH


def draw(table: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Per grown network, each seed as a mark: predictions that differ from the parent's, and the shift in ECE."""
    figure = drawing.canvas(WIDTH, 0.9 + drawing.pitch(len(order), 0.9, 0.4) * len(order))
    left, right = figure.subplots(1, 2, sharey=True)
    place = {name: position for position, name in enumerate(order)}
    shift = table["ece"] - table["parent_ece"]
    for axes, values, label in (
        (left, table["changed_percent"], "changed predictions (% of test images)"),
        (right, shift, "ECE minus the parent's (percentage points)"),
    ):
        _marks(axes, table, values, place)
        axes.set_xlabel(label)
        axes.axvline(0, color="#9ca3af", linewidth=1.0, zorder=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        span = max(values.max(), 0) - min(values.min(), 0) or 1.0
        axes.set_xlim(min(values.min(), 0) - 0.08 * span, max(values.max(), 0) + 0.12 * span)
    left.set_ylim(len(order) - 0.5, -0.5)
    left.set_yticks(range(len(order)), order)
    handles = [
        Line2D([], [], color=GOOD, marker="s", linestyle="", markersize=6, label="exact: the parent's logits"),
        Line2D(
            [],
            [],
            color=BRANCH,
            marker="o",
            markerfacecolor="white",
            linestyle="",
            markersize=6,
            label="not exact",
        ),
    ]
    left.legend(handles=handles, **LEGEND_ABOVE, ncols=2)
    figure.tight_layout(w_pad=1.5)
    return figure


def _marks(axes: Axes, table: pd.DataFrame, values: pd.Series, place: Mapping[str, int]) -> None:
    for exact, marker, colour, face in (("yes", "s", GOOD, GOOD), ("no", "o", BRANCH, "white")):
        chosen = table["exact"] == exact
        rows = [place[name] for name in table.loc[chosen, "experiment"]]
        axes.scatter(values[chosen], rows, marker=marker, s=26, c=face, edgecolors=colour, linewidths=1.4, zorder=3)
