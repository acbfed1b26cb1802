"""Reliability diagrams: accuracy against confidence."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, ENSEMBLE, NEUTRAL, WIDTH

COLUMNS = 4
STAGES = {"final": (ENSEMBLE, "D", ENSEMBLE, "at the end"), "step0": (BRANCH, "o", "white", "right after growth")}
"""Colour, marker, its filling, and name of each stage."""


def draw(reliability: pd.DataFrame, panels: Sequence[tuple[str, str, float]]) -> Figure:
    """A panel per network: a mark per bin that has images, a line to the diagonal, and the ECE in the title.

    Args:
        reliability: the table `reliability`.
        panels: experiment, stage and ECE (%) of each.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = drawing.canvas(WIDTH * columns / COLUMNS, 0.5 + 2.45 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for index, axes in enumerate(grid.flat):
        axes.set_visible(index < len(panels))
        below = index + columns < len(panels)
        axes.tick_params(labelbottom=not below)
        axes.set_xlabel("" if below else "confidence (%)")
        axes.xaxis.label.set_visible(not below)  # matplotlib hides it above an empty place
        axes.set_ylabel("accuracy (%)" if index % columns == 0 else "")
    for axes, (experiment, stage, ece) in zip(grid.flat, panels, strict=False):
        chosen = (reliability["experiment"] == experiment) & (reliability["stage"] == stage)
        _panel(axes, reliability[chosen & (reliability["images"] > 0)], stage)
        after = ", step 0" if stage == "step0" else ""
        axes.set_title(f"{experiment}\nECE {ece:.2f} %{after}", fontsize=8.0 if len(experiment) <= 22 else 6.5)
    grid[0, 0].set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    present = [stage for stage in STAGES if stage in {panel[1] for panel in panels}]
    handles = [
        Line2D([], [], color=colour, marker=marker, mfc=face, ms=5, linewidth=1.2, label=label)
        for colour, marker, face, label in (STAGES[stage] for stage in present)
    ]
    handles.append(Line2D([], [], color=NEUTRAL, linestyle="--", linewidth=1.0, label="perfect calibration"))
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles))
    figure.tight_layout(h_pad=1.0, w_pad=0.8)
    return figure


def _panel(axes: Axes, bins: pd.DataFrame, stage: str) -> None:
    colour, marker, face, _ = STAGES[stage]
    axes.plot([0, 100], [0, 100], color=NEUTRAL, linestyle="--", linewidth=1.0, zorder=1)
    x, y = bins["confidence"], bins["accuracy"]
    axes.vlines(x, np.minimum(x, y), np.maximum(x, y), color=colour, linewidth=0.8, alpha=0.5, zorder=1)
    axes.plot(x, y, color=colour, linewidth=0.9, zorder=2)
    sizes = 8 + 60 * bins["images"] / bins["images"].max()
    axes.scatter(x, y, s=sizes, marker=marker, c=face, edgecolors=colour, linewidths=1.2, zorder=3, clip_on=False)
