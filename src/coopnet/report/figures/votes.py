"""Accuracy against the number of branches that vote."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, ENSEMBLE, GOOD, HEIGHT, INK, WIDTH

RULES = {
    "gate": (ENSEMBLE, "o", -0.2, "gate-weighted logits"),
    "mean": (GOOD, "s", 0.0, "mean of probabilities"),
    "majority": (BRANCH, "^", 0.2, "majority vote"),
}
"""Colour, marker, how far to the right of its size it stands, and name of each rule."""


def draw(marks: pd.DataFrame, best: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Test top-1 against subset size, one panel per experiment: a dot per mark, a line at the mean of all of a size.

    Args:
        marks: test `top1` by `experiment`, `rule` and `size`.
        best: the table `votes_best`; the subsets that validation images chose are ringed.
        order: experiments, in the order of the panels.
    """
    columns = min(2, len(order))
    rows = -(-len(order) // columns)
    height = min(0.6 + 2.7 * rows, HEIGHT)
    figure = drawing.canvas(WIDTH if columns > 1 else 0.62 * WIDTH, height)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    panels = list(grid.flat)
    chosen = best[best["score"] == "top1"]
    for name, axes in zip(order, panels, strict=False):
        _panel(axes, marks[marks["experiment"] == name], chosen[chosen["experiment"] == name], name)
    for index, axes in enumerate(panels):
        axes.set_visible(index < len(order))
        below = index + columns < len(order)
        axes.tick_params(labelbottom=not below)
        axes.set_xlabel("" if below else "branches that vote")
        axes.xaxis.label.set_visible(not below)
        axes.set_ylabel("test top-1 (%)" if index % columns == 0 else "")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=4.5, linewidth=1.4, label=label)
        for colour, marker, _, label in RULES.values()
    ]
    if len(chosen):
        handles.append(
            Line2D([], [], color=INK, marker="o", mfc="none", ls="", ms=8.5, label="chosen on validation images")
        )
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 if columns == 1 else 4)
    figure.tight_layout(h_pad=1.0, w_pad=1.2)
    return figure


def _panel(axes: Axes, marks: pd.DataFrame, chosen: pd.DataFrame, name: str) -> None:
    axes.set_title(name)
    axes.grid(axis="x", visible=False)
    for rule, (colour, marker, shift, _) in RULES.items():
        own = marks[marks["rule"] == rule]
        x = own["size"] + shift
        axes.scatter(x, own["top1"], s=11, marker=marker, color=colour, alpha=0.3, linewidths=0)
        means = own.groupby("size")["top1"].mean()
        axes.plot(means.index + shift, means, color=colour, linewidth=1.4, marker=marker, markersize=4.5)
        best = chosen[chosen["rule"] == rule]
        axes.scatter(best["size"] + shift, best["test"], s=62, facecolors="none", edgecolors=INK, linewidths=1.0)
