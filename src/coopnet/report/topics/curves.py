"""Learning curves: training accuracy of every epoch as a line, test accuracy as marks, families overlaid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from coopnet.report import drawing
from coopnet.report.document import Picture
from coopnet.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE
from coopnet.report.frames import Tables
from coopnet.report.wording import first_of, listing, number

SOLID: tuple[float, ...] = ()
DASHED = (3.0, 1.5)
LINES = (
    *((BLUE, "o", SOLID), (ORANGE, "s", SOLID), (GREEN, "^", SOLID), (PURPLE, "D", SOLID)),
    *((INK, "v", SOLID), (GREY, "P", SOLID), (BLUE, "X", DASHED), (ORANGE, "d", DASHED)),
)
"""Colour, shape and dashes of each network of a family."""
PANELS = 4
"""Most families in one figure."""

FIGURES = {
    "curves_scratch": "Learning curves, from scratch.",
    "curves_growth": "Learning curves of fine-tuning after growth.",
    "curves_merging": "Learning curves after merging and expanding.",
}


class Family(NamedTuple):
    """Networks in one panel: a title, their names, and the accuracy (%) of what they started from."""

    title: str
    names: list[str]
    parent: float | None


def families(tables: Tables, figure: str) -> list[Family]:
    """The panels of a figure: of the data that most of the study has, at most `PANELS` with `LINES` each."""
    data = [tables.data(row) for row in tables.experiments]
    usual = max(data, key=data.count)
    rows = [row for row in tables.ordered if row["epochs"] and tables.data(row) == usual]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if title := _family(row, figure, {other["name"]: other for other in tables.experiments}):
            groups.setdefault(title, []).append(row)
    final = tables.final("ensemble")
    found = []
    for title, members in list(groups.items())[:PANELS]:
        parents = {parent for row in members for parent in row["parents"]} if members[0]["start"] != "random" else set()
        known = next(iter(parents)) if len(parents) == 1 else None
        found.append(Family(title, [row["name"] for row in members[: len(LINES)]], final.get(known) if known else None))
    return found


def _family(row: Mapping[str, Any], figure: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The panel of a network; nothing if it is not in this figure."""
    scratch, parents = row["start"] == "random", row["parents"]
    if figure == "curves_scratch":
        if scratch and row["part"] == "foundation":
            return f"{row['backbone']}, by number of branches"
        return f"{row['backbone']}, variants" if scratch and not parents and row["branches"] > 1 else ""
    if scratch or not parents:
        return ""
    branches = rows[parents[0]]["branches"] if parents[0] in rows else 1
    if figure == "curves_growth":
        return f"from {parents[0]}" if len(parents) == 1 and branches > 1 else ""
    if len(parents) > 1:
        return "several networks made one"
    return f"expanded from {parents[0]}" if branches == 1 and row["branches"] > 1 else ""


def _whole(tables: Tables, figure: str) -> int:
    """Number of networks that the figure would show if it had room, and one scale for all data."""
    rows = {row["name"]: row for row in tables.experiments}
    return sum(bool(row["epochs"] and _family(row, figure, rows)) for row in rows.values())


def pictures(tables: Tables, figure: str) -> list[Picture]:
    """The figure's caption, if it has any panel."""
    found = families(tables, figure)
    if not found:
        return []
    final = tables.final("ensemble")
    ends = listing(f"{name} {number(final[name], 1)} %" for family in found[:1] for name in family.names)
    dotted = (
        ", the final accuracy of a panel’s one parent as a dotted line"
        if any(family.parent for family in found)
        else ""
    )
    caption = (
        f"{FIGURES[figure]} Ensemble top-1, means over seeds: lines are the training images’ running accuracy of every "
        f"epoch, with all seeds as a band, marks the test images{dotted}."
        f"{first_of(sum(len(family.names) for family in found), _whole(tables, figure), 'the file has all')}"
    )
    return [Picture(figure, caption, f"Final test top-1: {ends}.", "history.csv")]


def figures(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """The figures that have a panel, by name."""
    made: dict[str, Callable[[], Figure]] = {}
    for figure in FIGURES:
        if found := families(tables, figure):
            made[figure] = lambda found=found: draw(tables.history, found)  # type: ignore[misc]
    return made


def draw(history: pd.DataFrame, found: Sequence[Family]) -> Figure:
    """A panel per family, one above the other, with the names of its networks beside the curves."""
    tall, gap, foot = 1.7, 0.55, 0.42
    height = len(found) * (tall + gap) + foot
    figure = drawing.canvas(height)
    names = max(drawing.inches(name) for family in found for name in family.names)
    room = 0.90 * drawing.WIDTH - names - 0.42  # what names and lines of the legend leave, in inches
    width = min(0.50, max(drawing.NARROWEST, room) / drawing.WIDTH)
    for place, family in enumerate(found):
        bottom = foot + (len(found) - 1 - place) * (tall + gap)
        axes = figure.add_axes((0.09, bottom / height, width, tall / height))
        _panel(axes, history, family)
        if place == len(found) - 1:
            axes.set_xlabel("epochs trained")
    return figure


def _panel(axes: Axes, history: pd.DataFrame, family: Family) -> None:
    axes.set_title(f"{family.title} (top-1, %)")
    if family.parent is not None:
        axes.axhline(family.parent, color=INK, linestyle=":", linewidth=1.1)
    own = history[history["experiment"].isin(family.names)]
    own = own.assign(epochs=own["epoch"] + 1)  # epochs trained; the history counts from 0
    lines = dict(zip(family.names, LINES, strict=False))
    sns.lineplot(
        own[own["split"] == "train"],
        x="epochs",
        y="top1_ensemble",
        hue="experiment",
        hue_order=family.names,
        palette={name: colour for name, (colour, _, _) in lines.items()},
        style="experiment",
        dashes={name: dashes or "" for name, (_, _, dashes) in lines.items()},
        errorbar=("pi", 100),  # all seeds
        err_kws={"alpha": 0.1, "linewidth": 0},
        linewidth=1.3,
        legend=False,
        ax=axes,
    )
    axes.set(xlabel="", ylabel="")
    handles = []
    for name, (colour, shape, dashes) in lines.items():
        mean = own[(own["experiment"] == name) & (own["split"] == "test")].groupby("epochs")["top1_ensemble"].mean()
        axes.plot(mean.index, mean, color=colour, linewidth=0, marker=shape, mfc=PAPER, markersize=4)
        style = (0, dashes) if dashes else "-"
        handles.append(Line2D([], [], color=colour, ls=style, marker=shape, mfc=PAPER, ms=4, lw=1.3, label=name))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), handlelength=1.4)
