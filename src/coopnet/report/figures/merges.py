"""Networks made of several trained ones: where they start, where they end, and what they have to beat."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from coopnet.report.figures.drawing import BRANCH, ENSEMBLE, GOOD, INK, NEUTRAL
from coopnet.report.figures.overview import above, row_panels

LINES = (("parents_mean_top1", NEUTRAL, (0, (2, 1.2))), ("parents_ensemble_top1", INK, "-"))
MARKS = (
    ("step0_ensemble_top1", BRANCH, "o", "white", 0.0),
    ("control_ensemble_top1", GOOD, "s", "white", 0.22),
    ("final_ensemble_top1", ENSEMBLE, "D", ENSEMBLE, -0.22),
)
"""Column, colour, marker, its filling, and how far below the row's middle it stands."""


def draw(merges: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> Figure:
    """Top-1 of each row: lines at its parents (mean over seeds), a mark per seed for each ensemble.

    Args:
        merges: the table `merges`.
        panels: experiments by the title of their panel.
    """
    figure, grid = row_panels(panels)
    for axes, order in zip(grid, panels.values(), strict=True):
        for y, name in enumerate(order):
            rows = merges[merges["experiment"] == name]
            for column, colour, dash in LINES:
                axes.vlines(rows[column].mean(), y - 0.5, y + 0.5, color=colour, linewidth=1.4, linestyle=dash)
            for column, colour, marker, face, shift in MARKS:
                values = rows[column].dropna()
                axes.scatter(
                    values,
                    [y + shift] * len(values),
                    s=24,
                    marker=marker,
                    c=face,
                    edgecolors=colour,
                    linewidths=1.3,
                    zorder=3,
                )
    grid[-1].set_xlabel("test top-1 accuracy (%)")
    trained = merges["final_ensemble_top1"].notna().any()
    controlled = merges["control_ensemble_top1"].notna().any()
    handles = [Line2D([], [], color=BRANCH, marker="o", mfc="white", ls="", ms=5.5, label="step 0")]
    if trained:
        handles.append(Line2D([], [], color=ENSEMBLE, marker="D", ls="", ms=5, label="fine-tuned"))
    if controlled:
        handles.append(Line2D([], [], color=GOOD, marker="s", mfc="white", ls="", ms=5, label="control"))
    handles += [
        Line2D([], [], color=INK, linewidth=1.4, label="parents' logit ensemble"),
        Line2D([], [], color=NEUTRAL, linewidth=1.4, linestyle=(0, (2, 1.2)), label="mean parent"),
    ]
    above(grid[0], handles, titled=len(panels) > 1)
    return figure
