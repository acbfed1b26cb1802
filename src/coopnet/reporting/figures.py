"""The figures of a report, as SVG (text as paths) and PNG with the same bytes every time.

Colours are those of Okabe and Ito, told apart by colour-blind readers; shape, fill or dash says the same again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from coopnet import files

ENSEMBLE, BRANCH, NEUTRAL, GOOD = "#0072B2", "#D55E00", "#6b7280", "#009E73"
INK, GRID = "#1f2937", "#e5e7eb"
WIDTH = 9.0
"""Width of a full figure, in inches."""
MANY = 15
"""Rows of a figure above which they move closer together, so that it still fits a page."""

STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "coopnet",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a $ in a name is a dollar
    "lines.solid_capstyle": "round",
}

LEGEND_ABOVE: Mapping[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1.0),
    "borderaxespad": 0.2,
    "handletextpad": 0.2,
}

Draw = Callable[[], Figure]


def save(draw: Draw, path: Path) -> None:
    """Draw in the report's style and write `path` (`.svg` or `.png`), atomically and without date or tool name."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a report
        mpl.rcParams.update(STYLE)
        figure = draw()
        kind = path.suffix.removeprefix(".")
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with files.replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.08)


def canvas(width: float, height: float) -> Figure:
    """A figure outside pyplot's global state, so that nothing is shared between two reports."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


# Overview -----------------------------------------------------------------------------------------


def overview(runs: pd.DataFrame, order: Sequence[str], split: str = "test") -> Figure:
    """Top-1 of every experiment: branch 1 and the ensemble, a mark per seed and a bar at their mean."""
    figure = canvas(WIDTH, 0.9 + (0.42 if len(order) <= MANY else 0.24) * len(order))
    axes = figure.subplots()
    place = {name: position for position, name in enumerate(order)}
    data = runs[(runs["split"] == split) & runs["model"].isin(["branch1", "ensemble"])]
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel="test top-1 accuracy (%)")
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for model, colour, marker, face, shift in (
        ("branch1", BRANCH, "o", "white", 0.17),
        ("ensemble", ENSEMBLE, "D", ENSEMBLE, -0.17),
    ):
        for experiment, group in data[data["model"] == model].groupby("experiment", sort=False):
            y, values = place[str(experiment)] + shift, group["top1"].to_numpy()
            axes.plot([values.min(), values.max()], [y, y], color=colour, linewidth=1.2, alpha=0.5)
            if len(values) > 1:
                axes.vlines(values.mean(), y - 0.16, y + 0.16, color=colour, linewidth=2.2)
            axes.scatter(
                values,
                [y] * len(values),
                s=26,
                marker=marker,
                c=face,
                edgecolors=colour,
                linewidths=1.3,
                zorder=3,
            )
    for row in range(1, len(order)):
        axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
    replicated = data["seed"].nunique() > 1
    each = ", each seed" if replicated else ""
    marks = [
        Line2D([], [], color=ENSEMBLE, marker="D", ls="", ms=5, label=f"ensemble{each}"),
        Line2D([], [], color=BRANCH, marker="o", mfc="white", ls="", ms=5.5, label=f"branch 1{each}"),
    ]
    if replicated:
        marks.append(Line2D([], [], color=NEUTRAL, marker="|", ls="", ms=9, mew=2.2, label="mean"))
    axes.legend(handles=marks, **LEGEND_ABOVE, ncols=3)
    return figure


# Learning curves ----------------------------------------------------------------------------------


def curves(history: pd.DataFrame, order: Sequence[str], parents: Mapping[str, float]) -> Figure:
    """Test top-1 by epoch, one panel per experiment, all on the same axes.

    Args:
        history: the test rows of the history table.
        order: experiments, in the order of the panels.
        parents: final ensemble top-1 (%) of each experiment's parent, where it has one: a dotted line.
    """
    columns = max(2, min(len(order), 4 if len(order) % 4 == 0 or len(order) % 3 == 1 else 3))
    rows = -(-len(order) // columns)
    figure = canvas(WIDTH, 0.55 + (6.2 / columns) * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for name, axes in zip(order, panels, strict=False):
        _panel(axes, history[history["experiment"] == name], name, parents.get(name))
    for index, axes in enumerate(panels):
        axes.set_visible(index < len(order))
        below = index + columns < len(order)
        axes.tick_params(labelbottom=not below)
        axes.set_xlabel("" if below else "epochs trained")
        axes.xaxis.label.set_visible(not below)  # matplotlib hides it above an empty place
        axes.set_ylabel("test top-1 (%)" if index % columns == 0 else "")
    panels[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(figure, history[history["experiment"].isin(order)], any(name in parents for name in order))
    figure.tight_layout(h_pad=1.0, w_pad=0.8)
    return figure


def _panel(axes: Axes, history: pd.DataFrame, name: str, parent: float | None) -> None:
    """One experiment: mean over seeds of ensemble and branch mean, with a band from lowest to highest seed."""
    axes.set_title(name)
    if parent is not None:
        axes.axhline(parent, color=INK, linestyle=":", linewidth=1.1)
    _shade_closed(axes, history)
    by_epoch = history.groupby("epoch")
    for column, colour, dash in (("top1_branch_mean", BRANCH, (3, 1.5)), ("top1_ensemble", ENSEMBLE, ())):
        band = by_epoch[column].agg(["mean", "min", "max"])
        band.index += 1  # epochs trained; the history counts from 0
        if history["seed"].nunique() > 1:
            axes.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.2, linewidth=0)
        sns.lineplot(
            x=band.index,
            y=band["mean"],
            estimator=None,
            color=colour,
            linestyle=(0, dash) if dash else "-",
            linewidth=1.5,
            marker="o" if len(band) == 1 else None,
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


# Step 0 -------------------------------------------------------------------------------------------


def step0(table: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Per grown network, each seed as a mark: predictions that differ from the parent's, and the shift in ECE."""
    figure = canvas(WIDTH, 0.9 + (0.4 if len(order) <= MANY else 0.24) * len(order))
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
        axes.scatter(values[chosen], rows, marker=marker, s=34, c=face, edgecolors=colour, linewidths=1.4, zorder=3)
