"""The lineage of experiments: a line per ancestor, generations as columns."""

from collections.abc import Mapping
from typing import Any

from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.topics import cells
from coopnet.report.wording import count

GENERATIONS = ("From scratch, or imported", "Made from it", "Made from those", "And from those")


def section(tables: Tables) -> Section:
    """The table of descent."""
    generations = generation(tables)
    last = max(generations.values())
    children: dict[str, list[str]] = {}
    for row in tables.ordered:
        for parent in dict.fromkeys(row["parents"]):
            children.setdefault(parent, []).append(row["name"])
    rows = []
    for name in (row["name"] for row in tables.ordered if generations[row["name"]] == 0):
        if name in children:
            rows.append(Row([_names([name]), *_descendants(tables, name, children, last)]))
    alone = [name for name in tables.names if generations[name] == 0 and name not in children]
    labels = [GENERATIONS[min(place, len(GENERATIONS) - 1)] for place in range(last + 1)]
    columns = [Column(label, numeric=False, wide=place > 0) for place, label in enumerate(labels)]
    caption = (
        "Lineage. A network is in the column after its parents or its teacher. (control): the continued-training "
        "control of a parent; (student): learns from a teacher and starts from random weights."
    )
    born = sum(place > 0 for place in generations.values())
    first = len(generations) - born
    sentence = (
        f"{count(first, 'experiment')} {'starts' if first == 1 else 'start'} from random weights or an imported "
        "checkpoint; "
    )
    if not born:
        return Section("lineage", "Lineage of the runs", [f"{sentence}none starts from trained networks."], [])
    sentence += (
        f"{born} {'starts' if born == 1 else 'start'} from trained networks or {'learns' if born == 1 else 'learn'} "
        f"from them, and each seed has parents of its own. {count(len(alone), 'experiment')} without descendants "
        f"{'is' if len(alone) == 1 else 'are'} not in this table."
    )
    table = Table("lineage-table", caption, columns, rows, "study.json")
    return Section("lineage", "Lineage of the runs", [sentence], [table])


def generation(tables: Tables) -> dict[str, int]:
    """The generation of each experiment; 0 for those with random weights and without a teacher."""
    rows = {row["name"]: row for row in tables.experiments}
    found: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in found:
            parents = [parent for parent in rows[name]["parents"] if parent in rows]
            found[name] = 1 + max(map(depth, parents)) if parents else 0
        return found[name]

    return {name: depth(name) for name in rows}


def _descendants(tables: Tables, name: str, children: Mapping[str, list[str]], last: int) -> list[Cell]:
    """A cell per generation below `name`, each descendant once."""
    rows = {row["name"]: row for row in tables.experiments}
    found, above, seen = [], [name], {name}
    for _ in range(last):
        below = [child for parent in above for child in children.get(parent, ()) if child not in seen]
        below = list(dict.fromkeys(below))
        seen |= set(below)
        found.append(_names(below, rows))
        above = below
    return found


def _names(names: list[str], rows: Mapping[str, Any] | None = None) -> Cell:
    return Cell("", tone="code", links=[(name + _kind((rows or {}).get(name)), cells.anchor(name)) for name in names])


def _kind(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["start"] == "continue":
        return " (control)"
    return " (student)" if row["start"] == "random" and row["parents"] else ""
