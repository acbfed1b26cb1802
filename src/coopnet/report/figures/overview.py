"""The accuracy of many experiments at a glance."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, ENSEMBLE, GRID, LEGEND_ABOVE, NEUTRAL, WIDTH

MODELS = (("branch1", BRANCH, "o", "white", 0.17), ("ensemble", ENSEMBLE, "D", ENSEMBLE, -0.17))
"""Model, colour, marker, its filling, and how far below the row's middle it stands."""


def draw(runs: pd.DataFrame, panels: Mapping[str, Sequence[str]], split: str = "test") -> Figure:
    """Top-1 of every experiment: branch 1 and the ensemble, a mark per seed and a bar at their mean.

    Args:
        runs: the table `runs`.
        panels: experiments by the title of their panel; accuracies of different data have no common axis.
        split: the images to take.
    """
    names = [name for panel in panels.values() for name in panel]
    data = runs[(runs["split"] == split) & runs["model"].isin(["branch1", "ensemble"])]
    figure, grid = row_panels(panels)
    replicated = data[data["experiment"].isin(names)]["seed"].nunique() > 1
    for axes, order in zip(grid, panels.values(), strict=True):
        _panel(axes, data, order)
    grid[-1].set_xlabel(f"{split} top-1 accuracy (%)")
    each = ", each seed" if replicated else ""
    marks = [
        Line2D([], [], color=ENSEMBLE, marker="D", ls="", ms=5, label=f"ensemble{each}"),
        Line2D([], [], color=BRANCH, marker="o", mfc="white", ls="", ms=5.5, label=f"branch 1{each}"),
    ]
    if replicated:
        marks.append(Line2D([], [], color=NEUTRAL, marker="|", ls="", ms=9, mew=2.2, label="mean"))
    above(grid[0], marks, titled=len(panels) > 1)
    return figure


def row_panels(panels: Mapping[str, Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """Panels one above the other, a row for each experiment, which stands beside it by name."""
    rows, taken = sum(len(order) for order in panels.values()), 0.9 + 0.6 * (len(panels) - 1)
    pitch = drawing.pitch(rows, taken)
    figure = drawing.canvas(WIDTH, taken + pitch * rows)
    heights = [len(order) for order in panels.values()]
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, order) in zip(grid, panels.items(), strict=True):
        axes.set(ylim=(len(order) - 0.5, -0.5), title=title if len(panels) > 1 else "")
        axes.set_yticks(range(len(order)), order)
        axes.tick_params(axis="y", length=0, labelsize=min(8.0, 40 * pitch))
        axes.grid(axis="y", visible=False)
        for row in range(1, len(order)):
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
    figure.subplots_adjust(hspace=0.75 * len(panels) / (pitch * rows))
    return figure, list(grid)


def above(axes: Axes, marks: Sequence[Line2D], *, titled: bool) -> None:
    """The legend above a panel, and above its title."""
    place = dict(LEGEND_ABOVE)
    if titled:
        height = axes.get_window_extent().height / axes.figure.dpi
        place["bbox_to_anchor"] = (0, 1 + 0.22 / height)
    axes.legend(handles=marks, **place, ncols=len(marks))


def _panel(axes: Axes, data: pd.DataFrame, order: Sequence[str]) -> None:
    place = {name: position for position, name in enumerate(order)}
    for model, colour, marker, face, shift in MODELS:
        chosen = data[(data["model"] == model) & data["experiment"].isin(order)]
        for experiment, group in chosen.groupby("experiment", sort=False):
            y, values = place[str(experiment)] + shift, group["top1"].to_numpy()
            axes.plot([values.min(), values.max()], [y, y], color=colour, linewidth=1.2, alpha=0.5)
            if len(values) > 1:
                axes.vlines(values.mean(), y - 0.16, y + 0.16, color=colour, linewidth=2.2)
            axes.scatter(
                values,
                [y] * len(values),
                s=26 if len(order) <= 20 else 16,
                marker=marker,
                c=face,
                edgecolors=colour,
                linewidths=1.3,
                zorder=3,
            )
