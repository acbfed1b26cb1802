"""Runs that failed, what could not be run because of them, and where their results would stand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from coopnet.report import starts
from coopnet.report.document import Cell, Column, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.runs import UNCHANGED
from coopnet.report.sections import cells
from coopnet.report.wording import count, listing

HEADING = "Failed, or not run because of a failure"
CAUSES = {"diverged": "diverged", "out_of_memory": "out of memory"}


def section(tables: Tables) -> Section | None:
    """Every run that failed, why, and what needs it; None where all went well."""
    if not tables.losses:
        return None
    failed = [loss for loss in tables.losses if loss["kind"] != cells.WAITING]
    sentences = [
        summary(tables),
        "Means are over the seeds that are left. What fails is not drawn by chance, so these may differ from what all "
        "seeds would have shown; no claim that needs a lost run is decided.",
    ]
    if tables.lost:
        names = listing(row["name"] for row in tables.lost)
        sentences.append(f"Without any result, and so in no figure: {names}.")
    columns = [
        Column("Run", numeric=False),
        Column("What happened", numeric=False),
        Column("Why, and what to change", numeric=False, wide=True),
        Column("Not run because of it", numeric=False, wide=True),
    ]
    rows = [
        [
            Cell(_run(loss), tone="code"),
            Cell(CAUSES[loss["kind"]], tone="no"),
            Cell(_reason(loss)),
            _needing(tables, loss),
        ]
        for loss in failed
    ]
    caption = "Runs of this study that failed, and those that start from them or learn from them."
    table = Table("failed-table", caption, columns, rows, "study.json")
    return Section("failed", "Runs that failed", sentences, [table])


def summary(tables: Tables) -> str:
    """`1 of 12 runs failed, and 2 that need it were not run.`."""
    waiting = sum(loss["kind"] == cells.WAITING for loss in tables.losses)
    failed = len(tables.losses) - waiting
    sentence = f"{failed} of {count(tables.study['runs'] + len(tables.losses), 'run')} failed"
    if waiting:
        sentence += f", and {waiting} that {'needs' if waiting == 1 else 'need'} {_them(failed)} "
        sentence += "was not run" if waiting == 1 else "were not run"
    return f"{sentence}."


def _them(failed: int) -> str:
    return "it" if failed == 1 else "them"


def completed(section: Section, tables: Tables) -> Section:
    """The same section, with a row for each lost experiment in every table that would have one."""
    items = [_completed(item, tables) if isinstance(item, Table) else item for item in section.items]
    return replace(section, items=items)


def _completed(table: Table, tables: Tables) -> Table:
    belongs = TABLES.get(table.id)
    lost = [row for row in tables.lost if belongs is not None and belongs(row)]
    if not lost:
        return table
    place = len(table.rows)
    rules = [*table.rules, *range(place, place + len(lost))] if table.rules else []
    rows = [*table.rows, *([_cell(tables, row, column) for column in table.columns] for row in lost)]
    return replace(table, rows=rows, rules=rules, headings=table.headings | {place: HEADING})


def _cell(tables: Tables, row: Mapping[str, Any], column: Column) -> Cell:
    """A cell of an experiment without results: what is known without them, or that there are none."""
    if column.label == "Experiment":
        return cells.name(tables, row)
    if column.label == "n":
        return cells.counted(tables, row["name"], 0)
    if column.label == "What it is":
        return Cell(row["about"])
    kinds = {loss["kind"] for loss in tables.losses if loss["experiment"] == row["name"]}
    return Cell("not run" if kinds == {cells.WAITING} else "failed", tone="no")


def _single(row: Mapping[str, Any]) -> bool:
    """Whether it starts from the weights of one network."""
    return len(row["parents"]) == 1 and row["start"] != "random"


def _merged(row: Mapping[str, Any]) -> bool:
    return len(row["parents"]) > 1 and row["start"] != "random" and not starts.is_plain_ensemble(row["row"])


TABLES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    **dict.fromkeys(("accuracy-table", "branches-table", "compute-table", "experiments-table"), lambda row: True),
    "growth-table": _single,
    "step0-table": lambda row: _single(row) and row["start"] not in UNCHANGED,
    "merges-step0-table": _merged,
    "merges-table": lambda row: _merged(row) and row["epochs"] > 0,
    "diversity-table": lambda row: row["branches"] > 1,
    "distillation-table": lambda row: row["part"] == "distillation" or starts.is_plain_ensemble(row["row"]),
}
"""Tables with a row per experiment, and which experiments each is of."""


def _run(loss: Mapping[str, Any]) -> str:
    return f"{loss['experiment']}/seed{loss['seed']}"


def _reason(loss: Mapping[str, Any]) -> str:
    return str(loss["text"]).removeprefix("failed: ")


def _needing(tables: Tables, failed: Mapping[str, Any]) -> Cell:
    waiting = [loss for loss in tables.losses if loss["kind"] == cells.WAITING and _run(failed) in loss["causes"]]
    return Cell(", ".join(_run(loss) for loss in waiting) or "–", tone="code" if waiting else "")
