"""The experiments and who descends from whom."""

from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import PARTS, Tables
from coopnet.report.sections import cells
from coopnet.report.wording import repeated


def section(tables: Tables) -> Section:
    """A graph per part, and the list of all."""
    pictures = [_picture(tables, part, name) for part, name in tables.by_part("dag").items()]
    return Section("experiments", "Experiments and their descent", [], [*pictures, _table(tables)])


def _picture(tables: Tables, part: str, name: str) -> Picture:
    title = f"{PARTS.get(part, part)}. " if len(tables.parts) > 1 else ""
    caption = "An arrow leads from a parent to what starts from its weights; B is the number of branches."
    if any(row["start"] == "random" and row["parents"] for row in tables.parts[part]):
        caption += " A dashed arrow leads from a teacher to its student."
    return Picture(name, title + caption, "study.json")


def _table(tables: Tables) -> Table:
    labels = ("Experiment", "What it is", "Start", "Parents", "Seeds")
    columns = [Column(label, numeric=False, wide=label in ("What it is", "Parents")) for label in labels]
    rows = [
        [
            cells.name(tables, row),
            Cell(row["about"]),
            Cell(row["start"], tone="code"),
            _parents(row),
            Cell(_seeds(row["seeds"])),
        ]
        for row in tables.ordered
    ]
    caption = "The experiments of this study, in the order of its parameter file."
    if len(tables.parts) > 1:
        caption = "The experiments of this study, by part, in the order of its parameter file."
    headings = cells.part_headings(tables, {row["name"]: place for place, row in enumerate(tables.ordered)})
    return Table("experiments-table", caption, columns, rows, "study.json", headings=headings)


def _seeds(seeds: Sequence[int]) -> str:
    """`0, 2`, and `0 to 8` where none is left out."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(str(seed) for seed in seeds)


def _parents(row: Mapping[str, Any]) -> Cell:
    if not row["parents"]:
        return Cell("–")
    return Cell(repeated(row["parents"]), "as teacher" if row["start"] == "random" else "", "code")
