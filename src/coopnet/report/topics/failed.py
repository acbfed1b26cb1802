"""Runs that failed, and runs and experiments that are missing because of them."""

from collections.abc import Mapping
from typing import Any

from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.topics.cells import WAITING
from coopnet.report.wording import count, listing

CAUSES = {"diverged": "diverged", "out_of_memory": "out of memory"}


def section(tables: Tables) -> Section | None:
    """Every run that failed, the reason, and the runs that need it; None if no run failed."""
    if not tables.missing_runs:
        return None
    failed = [one for one in tables.missing_runs if one["kind"] != WAITING]
    sentences = [
        summary(tables),
        "Means are over the remaining seeds. Failed runs are not a random choice, so these means may differ from those "
        "over all seeds; no claim that needs a missing run is decided.",
    ]
    if tables.without_results:
        names = listing(row["name"] for row in tables.without_results)
        sentences.append(f"Without any result, and therefore in no table or figure: {names}.")
    columns = [
        Column("Run", numeric=False),
        Column("What happened", numeric=False),
        Column("Why, and what to change", numeric=False, wide=True),
        Column("Not run because of it", numeric=False, wide=True),
    ]
    rows = [
        Row(
            [
                Cell(_run(one), tone="code"),
                Cell(CAUSES[one["kind"]], tone="no"),
                Cell(str(one["text"]).removeprefix("failed: ")),
                _needing(tables, one),
            ]
        )
        for one in failed
    ]
    caption = "Failed runs. Those that start from them or learn from them were not run either."
    table = Table("failed-table", caption, columns, rows, "study.json")
    return Section("failed", "Runs that failed", sentences, [table])


def summary(tables: Tables) -> str:
    """`1 of 12 runs failed, and 2 that need it were not run.`."""
    waiting = sum(one["kind"] == WAITING for one in tables.missing_runs)
    failed = len(tables.missing_runs) - waiting
    sentence = f"{failed} of {count(tables.study['runs'] + len(tables.missing_runs), 'run')} failed"
    if waiting:
        them = "it" if failed == 1 else "them"
        sentence += f", and {waiting} that {'needs' if waiting == 1 else 'need'} {them} "
        sentence += "was not run" if waiting == 1 else "were not run"
    return f"{sentence}."


def _run(one: Mapping[str, Any]) -> str:
    return f"{one['experiment']}/seed{one['seed']}"


def _needing(tables: Tables, failed: Mapping[str, Any]) -> Cell:
    waiting = [one for one in tables.missing_runs if one["kind"] == WAITING and _run(failed) in one["causes"]]
    return Cell(", ".join(_run(one) for one in waiting) or "–", tone="code" if waiting else "")
