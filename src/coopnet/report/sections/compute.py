"""What accuracy costs: parameters, and the operations of using and of training each network."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from coopnet.report import starts
from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import Tables, records
from coopnet.report.sections import cells
from coopnet.report.wording import TIMES, number, power, spread, thousands

ONCE = ("inference_flops", "step_flops")
TRAINING = ("training_flops", "lineage_flops")


def reference(tables: Tables) -> str | None:
    """The study's first plain network, of one branch and trained alone, which others are compared with."""
    for row in tables.experiments:
        if row["start"] == "random" and not row["parents"] and row["row"]["model"]["gate"] == "none":
            return str(row["name"])
    return None


def points(tables: Tables) -> pd.DataFrame:
    """Where each experiment stands: its `lineage_flops`, its ensemble's mean `top1` (%), and what it is: its `kind`.

    Left out are starts that were not trained, and what descends from an imported checkpoint, whose past is not known.
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
        "multiply-add is two. A training image costs forward, backward and the forward of a teacher from outside. Not "
        "counted are normalisation, activations, the optimiser, tests during training, and surgery."
    )
    picture = Picture(
        "compute",
        "Test top-1 of the ensemble (mean over seeds) against the operations of its training and of all that it "
        "descends from, on a logarithmic axis; starts that were not trained are left out. The line joins the networks "
        "that no cheaper one equals on these test images; they are named where there is room.",
        "compute.csv",
    )
    return Section("compute", "Compute", [sentence], [*([] if points(tables).empty else [picture]), _table(tables)])


def _table(tables: Tables) -> Table:
    units = {columns: thousands(tables.compute[list(columns)].to_numpy().ravel()) for columns in (ONCE, TRAINING)}
    once, training = (f"{power(units[columns])} FLOPs" for columns in (ONCE, TRAINING))
    columns = [
        Column("Experiment", numeric=False),
        Column("Parameters"),
        *(Column(label, f"one image ({once})") for label in ("in a test", "in training")),
        *(Column(label, f"all training ({training})") for label in ("this run", "with ancestors")),
        Column("ensemble", "top-1 (%)"),
    ]
    lines = {line["experiment"]: line for line in records(tables.compute)}
    name = reference(tables)
    one = lines[name] if name else {}
    rows: list[list[Cell]] = []
    first = {}
    for row in tables.ordered:
        first[row["name"]] = len(rows)
        line, top1 = lines[row["name"]], tables.average(row["name"], "ensemble")
        costs = [_cost(line, one, key, exponent) for keys, exponent in units.items() for key in keys]
        accuracy = Cell(spread(top1["top1_mean"], top1["top1_std"]))
        rows.append([cells.name(tables, row), Cell(f"{line['parameters']:,}"), *costs, accuracy])
    caption = (
        "What each network costs, beside its test accuracy. With ancestors: this run and every distinct run that it "
        "descends from, teachers included, counted for its first seed."
    )
    caption += f" Below each: how many times that of {name}." if name else ""
    return Table("compute-table", caption, columns, rows, "compute.csv", headings=cells.part_headings(tables, first))


def _cost(line: Mapping[str, Any], one: Mapping[str, Any], key: str, exponent: int) -> Cell:
    """Operations in units of 10^`exponent`, and as a multiple of another network's; a dash where there are none."""
    if not line[key] > 0:
        return Cell(number(None))
    return Cell(number(line[key] / 10**exponent, 1), f"{TIMES}{number(line[key] / one[key])}" if one else "")
