"""A network of one parent after fine-tuning: child, parent, control."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.report.document import Cell, Column, Section, Table
from coopnet.report.frames import PARTS, Tables, records
from coopnet.report.sections import cells
from coopnet.report.wording import DOT, MINUS, between, listing, number, spread


def brief(tables: Tables) -> list[str]:
    """Gains over parent and control, part by part."""
    gains = {
        row["experiment"]: row
        for row in records(tables.growth_mean)
        if row["model"] == "ensemble" and row["metric"] == "top1" and not math.isnan(row["over_control_mean"])
    }
    by_part = {
        part: [gains[row["name"]] for row in rows if row["name"] in gains] for part, rows in tables.parts.items()
    }
    found = {PARTS.get(part, part): rows for part, rows in by_part.items() if rows}
    if not found:
        return []
    rows = [row for part in found.values() for row in part]
    whose = "grown network that has a control" if len(rows) == 1 else f"{len(rows)} grown networks that have a control"
    each = [f"{title}: {_gain(part)}" if len(found) > 1 else _gain(part) for title, part in found.items()]
    return [
        f"After fine-tuning, ensemble top-1 of the {whose} (the same parent trained on for as long "
        f"without growth): {'; '.join(each)}."
    ]


def _gain(rows: Sequence[Mapping[str, Any]]) -> str:
    """`+0.20 to +0.90 points from the parent, −0.20 to +0.60 from the control (2 of 4 above it)`."""
    parent = between([row["over_parent_mean"] for row in rows])
    control = [row["over_control_mean"] for row in rows]
    above = f" ({sum(gain > 0 for gain in control)} of {len(rows)} above it)" if len(rows) > 1 else ""
    return f"{parent} points from the parent's, {between(control)} from the control's{above}"


def section(tables: Tables) -> Section | None:
    """Every child of one parent."""
    if tables.growth_mean.empty:
        return None
    controls = [row["name"] for row in tables.experiments if row["start"] == "continue"]
    sentence = "Each network is paired with its own parent and with the control made from that parent, seed by seed."
    if controls:
        named = f" ({listing(controls)})" if len(controls) <= cells.FEW else ""
        sentence += (
            f" The control{named} is the parent trained on with the same schedule and no surgery: only "
            "a gain over the control is a gain by growth."
        )
    else:
        sentence += " This study has no control, so a gain over the parent may come from training longer."
    return Section("growth", "After fine-tuning: child, parent, control", [sentence], [_table(tables)])


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Model", numeric=False),
        Column("n"),
        Column("child", "top-1 (%)"),
        Column("minus parent", "top-1 (points)"),
        Column("minus control", "top-1 (points)"),
        Column("minus parent", "top-5 (points)"),
        Column("minus control", "top-5 (points)"),
    ]
    means = {_place(row): row for row in records(tables.growth_mean)}
    pairs: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for pair in records(tables.growth):
        pairs.setdefault(_place(pair), []).append(pair)
    rows: list[list[Cell]] = []
    first = {}
    for row in tables.ordered:
        if (row["name"], "ensemble", "top1") not in means:
            continue
        first[row["name"]] = len(rows)
        for model, label in (("ensemble", "ensemble"), ("branch_mean", "mean of branches")):
            top1, top5 = means[row["name"], model, "top1"], means[row["name"], model, "top5"]
            line = [_head(row, top1, model), Cell(label), cells.counted(tables, row["name"], top1["n"])]
            line.append(Cell(spread(top1["child_mean"], top1["child_std"])))
            for mean in (top1, top5):
                line += [_difference(mean, pairs[_place(mean)], versus) for versus in ("over_parent", "over_control")]
            rows.append(line)
    caption = "Final test accuracy of each child, and how far it is above (+) or below (−) the parent and the control"
    caption += ": mean ± standard deviation of the paired differences, each seed below." if tables.replicated else "."
    rules, headings = list(first.values()), cells.part_headings(tables, first)
    return Table("growth-table", caption.replace("−", MINUS), columns, rows, "growth.csv", rules, headings)


def _head(row: Mapping[str, Any], line: Mapping[str, Any], model: str) -> Cell:
    """The experiment and its parent, in the line below its control."""
    if model == "ensemble":
        return Cell(row["name"], f"from {line['parent']}, {row['start']}", "code")
    return Cell("", f"control {line['control']}" if isinstance(line["control"], str) else "")


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["experiment"], row["model"], row["metric"]


def _difference(line: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]], versus: str) -> Cell:
    """A paired difference with each seed below; a dash for the control itself and where there is none."""
    values = [seed[versus] for seed in seeds if not math.isnan(seed[versus])]
    detail = DOT.join(number(value, sign=True) for value in values) if len(values) > 1 else ""
    return Cell(spread(line[f"{versus}_mean"], line[f"{versus}_std"], sign=True), detail)
