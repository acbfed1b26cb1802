"""Learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from coopnet.report.figures import drawing
from coopnet.report.figures.drawing import BRANCH, ENSEMBLE, GRID, INK, NEUTRAL, WIDTH

SPARSE = 12
"""Points of a curve up to which each is marked."""
LONG = 96
"""Letters of all names abreast above which their panels' titles are set smaller."""


def draw(history: pd.DataFrame, order: Sequence[str], parents: Mapping[str, float]) -> Figure:
    """Test top-1 by epoch, one panel per experiment, all on the same axes.

    Args:
        history: the rows of the history table for `train`, which has every epoch, and `test`, which may have fewer.
        order: experiments, in the order of the panels.
        parents: final ensemble top-1 (%) of each experiment's parent, where it has one: a dotted line.
    """
    columns = 4 if len(order) > 3 and (len(order) % 4 == 0 or len(order) % 3 == 1) else 3
    rows = -(-len(order) // columns)
    figure = drawing.canvas(WIDTH, 0.55 + (6.2 / columns) * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for name, axes in zip(order, panels, strict=False):
        _panel(axes, history[history["experiment"] == name], name, parents.get(name), columns)
    for index, axes in enumerate(panels):
        axes.set_visible(index < len(order))
        below = index + columns < len(order)
        axes.tick_params(labelbottom=not below)
        axes.set_xlabel("" if below else "epochs trained")
        axes.xaxis.label.set_visible(not below)  # matplotlib hides it above an empty place
        axes.set_ylabel("test top-1 (%)" if index % columns == 0 else "")
    longest = history.loc[history["experiment"].isin(order), "epoch"].max() + 1
    margin = max(0.4, 0.04 * longest)  # a single epoch needs an axis of whole epochs, too
    panels[0].set_xlim(1 - margin, longest + margin)
    panels[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(figure, history[history["experiment"].isin(order)], any(name in parents for name in order))
    figure.tight_layout(h_pad=1.0, w_pad=0.8)
    return figure


def _panel(axes: Axes, history: pd.DataFrame, name: str, parent: float | None, abreast: int) -> None:
    """One experiment: mean over seeds of ensemble and branch mean, with a band from lowest to highest seed."""
    axes.set_title(name, fontsize=9.0 if abreast * len(name) <= LONG else 7.0)
    if parent is not None:
        axes.axhline(parent, color=INK, linestyle=":", linewidth=1.1)
    _shade_closed(axes, history)
    test = history[history["split"] == "test"]
    by_epoch = test.groupby("epoch")
    for column, colour, dash in (("top1_branch_mean", BRANCH, (3, 1.5)), ("top1_ensemble", ENSEMBLE, ())):
        band = by_epoch[column].agg(["mean", "min", "max"])
        band.index += 1  # epochs trained; the history counts from 0
        if test["seed"].nunique() > 1:
            axes.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.2, linewidth=0)
        sns.lineplot(
            x=band.index,
            y=band["mean"],
            estimator=None,
            color=colour,
            linestyle=(0, dash) if dash else "-",
            linewidth=1.5,
            marker="o" if len(band) <= SPARSE else None,
            markersize=3.5,
            markeredgewidth=0,
            ax=axes,
        )


def _shade_closed(axes: Axes, history: pd.DataFrame) -> None:
    """Grey out the epochs in which the new branches' prior is still below 1."""
    alpha = pd.to_numeric(history["prior_alpha"], errors="coerce")
    closed = history.loc[alpha < 1, "epoch"]
    if len(closed):
        axes.axvspan(closed.min() + 0.5, closed.max() + 1.5, color=GRID, alpha=0.7, linewidth=0)


def _legend(figure: Figure, history: pd.DataFrame, parents: bool) -> None:
    handles: list[Any] = [
        Line2D([], [], color=ENSEMBLE, linewidth=1.6, label="ensemble"),
        Line2D([], [], color=BRANCH, linewidth=1.6, linestyle=(0, (3, 1.5)), label="mean of branches"),
    ]
    if history.groupby("experiment")["seed"].nunique().max() > 1:
        handles.append(Patch(color=NEUTRAL, alpha=0.25, linewidth=0, label="lowest to highest seed"))
    if parents:
        handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=1.1, label="ensemble of the parent"))
    if (pd.to_numeric(history["prior_alpha"], errors="coerce") < 1).any():
        handles.append(Patch(color=GRID, linewidth=0, label="new branches not fully open (α < 1)"))
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles), borderaxespad=0.1)
