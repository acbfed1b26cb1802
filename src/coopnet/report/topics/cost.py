"""Cost against accuracy: parameters, and operations of inference and training of each network."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from coopnet.report import drawing, starts
from coopnet.report.document import Cell, Column, Picture, Row, Section, Table
from coopnet.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PAPER
from coopnet.report.frames import Tables, records
from coopnet.report.topics import cells
from coopnet.report.topics.results import chance
from coopnet.report.wording import TIMES, flops, listing, number, power

KINDS = {
    "scratch": (ORANGE, "o", False, "from random weights"),
    "descended": (BLUE, "D", True, "made of trained networks"),
    "together": (GREEN, "s", False, "plain ensemble"),
}
"""Colour, shape, fill and name of each kind."""
COUNTED = (
    ("one image, in a test", "inference_flops"),
    ("one image, in training", "step_flops"),
    ("this run", "training_flops"),
    ("with ancestors", "lineage_flops"),
)


def reference(tables: Tables) -> str | None:
    """The study's first plain network (one branch, trained alone), with which others are compared."""
    for row in tables.experiments:
        if row["start"] == "random" and not row["parents"] and row["row"]["model"]["gate"] == "none":
            return str(row["name"])
    return None


def points(tables: Tables) -> pd.DataFrame:
    """`lineage_flops`, the ensemble's mean `top1` (%) and `kind` of each experiment.

    Untrained starts and descendants of an imported checkpoint, whose cost is unknown, are left out.
    """
    kinds = {row["name"]: _kind(row) for row in tables.experiments}
    frame = tables.compute[["experiment", "lineage_flops"]].dropna()
    frame = frame[frame["experiment"].map(kinds) != "untrained"]
    top1, kind = (frame["experiment"].map(values) for values in (tables.final("ensemble"), kinds))
    return frame.assign(top1=top1, kind=kind).reset_index(drop=True)


def _kind(row: Mapping[str, Any]) -> str:
    if starts.is_plain_ensemble(row["row"]):
        return "together"
    if not row["epochs"]:
        return "untrained"
    return "scratch" if row["start"] == "random" else "descended"


def section(tables: Tables) -> Section:
    """The figure, and a table of all."""
    sentence = (
        "Floating-point operations (FLOPs) of convolutions and matrix products, counted while the network runs; a "
        "multiply-add is two. A training image costs a forward and a backward pass, and the forward pass of a separate "
        "teacher. Normalisation, activations, the optimiser, tests during training, and the transfer are not counted. "
        "Seconds and measured latencies are on the page of timings."
    )
    pictures = [] if points(tables).empty else [_picture(tables)]
    return Section("cost", "Cost against accuracy", [sentence], [*pictures, _table(tables)])


def _picture(tables: Tables) -> Picture:
    found = points(tables)
    groups = tables.by_dataset(found["experiment"])
    dropped = len(found) < len(tables.experiments)
    best = {data: frontier(found[found["experiment"].isin(names)]) for data, names in groups.items()}
    finding = "; ".join(f"on {data} {listing(frame['experiment'])}" for data, frame in best.items())
    return Picture(
        "cost",
        "Cost against accuracy. Test top-1 of the ensemble, mean over seeds, against the operations of its training "
        "and of all its ancestors. The line joins the networks that are more accurate than every cheaper one. They are "
        "selected on test images, so the line is optimistic."
        f"{' Transfers that were not trained, and descendants of an imported checkpoint, are left out.' * dropped}",
        f"More accurate than every cheaper network: {finding}.",
        "compute.csv",
    )


def figures(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """The figure, by name."""
    return {} if points(tables).empty else {"cost": lambda: draw(tables)}


def draw(tables: Tables) -> Figure:
    """A panel per dataset: a mark per experiment, and a line through those more accurate than every cheaper one."""
    found = points(tables)
    panels = tables.by_dataset(found["experiment"])
    rows = {row["name"]: row for row in tables.experiments}
    figure = drawing.canvas(0.5 + 2.7 * len(panels))
    grid = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (title, names) in zip(grid, panels.items(), strict=True):
        own = found[found["experiment"].isin(names)]
        for kind, (colour, shape, filled, _) in KINDS.items():
            chosen = own[own["kind"] == kind]
            axes.plot(
                chosen["lineage_flops"],
                chosen["top1"],
                ls="",
                marker=shape,
                color=colour,
                mfc=colour if filled else PAPER,
            )
        axes.set(xscale="log", title=f"{title}, test top-1 (%); chance level: {chance(rows[names[0]]):g} %")
        narrow = own["lineage_flops"].max() < 5 * own["lineage_flops"].min()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8) if narrow else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
        axes.margins(x=0.1, y=0.12)
    grid[-1].set_xlabel("FLOPs of training, with all ancestors")
    figure.tight_layout(h_pad=1.2, pad=0.2)
    kinds = [
        drawing.mark(c, s, words, filled=f) for kind, (c, s, f, words) in KINDS.items() if (found["kind"] == kind).any()
    ]
    drawing.legend(figure, kinds)
    for axes, names in zip(grid, panels.values(), strict=True):
        _line(axes, frontier(found[found["experiment"].isin(names)]))
    return figure


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The networks that are more accurate than every other at the same or a lower cost, from the cheapest."""
    ordered = points.sort_values(["lineage_flops", "top1"], ascending=[True, False], kind="stable")
    before = ordered["top1"].cummax().shift(fill_value=-1.0)
    return ordered[ordered["top1"] > before]


def _line(axes: Axes, best: pd.DataFrame) -> None:
    """The line, and the name of its most accurate network."""
    axes.plot(best["lineage_flops"], best["top1"], color=GREY, linewidth=1.0, zorder=0)
    name, x, y = best[["experiment", "lineage_flops", "top1"]].iloc[-1]
    axes.annotate(name, (x, y), (-7, 4), textcoords="offset points", ha="right", va="bottom", color=INK)


def _written(value: float) -> str:
    """`2 × 10¹⁵`."""
    digits, exponent = f"{value:.1e}".split("e")
    return power(int(exponent)) if digits == "1.0" else f"{digits.removesuffix('.0')}×{power(int(exponent))}"


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Parameters"),
        *(Column(label, "FLOPs") for label, _ in COUNTED),
        Column("top-1 (%)"),
    ]
    lines = {line["experiment"]: line for line in records(tables.compute)}
    name = reference(tables)
    one = lines[name] if name else {}
    top1 = tables.final("ensemble")
    rows: list[Row] = []
    first = []
    for row in tables.ordered:
        first.append((row["name"], len(rows)))
        line = lines[row["name"]]
        costs = [_cost(line, one, key) for _, key in COUNTED]
        head = Cell(row["name"], tone="code", link=cells.anchor(row["name"]))
        rows.append(Row([head, Cell(f"{line['parameters']:,}"), *costs, Cell(number(top1[row["name"]]))]))
    caption = (
        "What each network costs, beside its test accuracy. With ancestors: this run and every distinct "
        "ancestor, teachers included, counted for its first seed."
    )
    caption += f" Below each: how many times that of {name}." if name else ""
    headings = cells.part_headings(tables, first)
    return Table("cost-table", caption, columns, rows, "compute.csv", headings, "Every cost", where="appendix")


def _cost(line: Mapping[str, Any], one: Mapping[str, Any], key: str) -> Cell:
    """Operations, and their multiple of another network's; a dash if there are none."""
    value = line[key]
    if math.isnan(value) or not value > 0:
        return cells.DASH
    return Cell(flops(value), f"{TIMES}{number(value / one[key])}" if one else "", value=value)
