"""How much the branches differ, at step 0 and at the end."""

from typing import Any

import pandas as pd

from coopnet.report.document import Cell, Column, Section, Table
from coopnet.report.frames import Tables, records
from coopnet.report.sections import cells
from coopnet.report.wording import between, count, number, spread

STAGES = (("step0", "step 0"), ("final", "end"))
MEASURES = (("disagreement", "disagreement (%)", 2), ("kl", "KL (nats)", 3))


def brief(tables: Tables) -> list[str]:
    """Whether copies and their donors grow apart."""
    changes = _changes(tables)
    if not changes:
        return []
    grew = sum(change > 0 for change in changes)
    shrank = sum(change < 0 for change in changes)
    return [
        f"Of {count(len(changes), 'network')} with copied branches, copy and donor disagree on more test images after "
        f"training than at step 0 in {grew}, on fewer in {shrank} ({between(changes)} points)."
    ]


def _changes(tables: Tables) -> list[float]:
    """Disagreement of copy and donor, end minus step 0, per experiment."""
    means = _means(tables)
    pairs = [(means.get((name, "step0")), means.get((name, "final"))) for name in _trained(tables)]
    known = [(a["copy_disagreement"], b["copy_disagreement"]) for a, b in pairs if a is not None and b is not None]
    return [float(after - before) for before, after in known if pd.notna(before) and pd.notna(after)]


def _trained(tables: Tables) -> list[str]:
    return [row["name"] for row in tables.ordered if row["epochs"]]


def _means(tables: Tables) -> dict[tuple[str, str], dict[str, Any]]:
    """Means over seeds on the test images, by experiment and stage."""
    test = tables.diversity[tables.diversity["split"] == "test"]
    columns = [column for column in test if column not in ("experiment", "seed", "stage", "split")]
    means = records(test.groupby(["experiment", "stage"], sort=False)[columns].mean().reset_index())
    return {(row["experiment"], row["stage"]): row for row in means}


def section(tables: Tables) -> Section | None:
    """Copies and their donors, then all pairs of branches."""
    if tables.diversity.empty:
        return None
    sentences = brief(tables) or ["Networks with several branches, on the test images."]
    copied = [name for name in _trained(tables) if _has_copies(tables, name)]
    items = [_table(tables, copied, copies=True)] if copied else []
    names = [row["name"] for row in tables.ordered if row["name"] in set(tables.diversity["experiment"])]
    return Section("diversity", "Diversity of the branches", sentences, [*items, _table(tables, names, copies=False)])


def _has_copies(tables: Tables, name: str) -> bool:
    own = tables.diversity[tables.diversity["experiment"] == name]
    return bool(own["copy_disagreement"].notna().any())


def _table(tables: Tables, names: list[str], *, copies: bool) -> Table:
    columns = [Column("Experiment", numeric=False), Column("n")]
    columns += [Column(label, group) for _, group, _ in MEASURES for _, label in STAGES]
    test = tables.diversity[tables.diversity["split"] == "test"]
    rows: list[list[Cell]] = []
    first = {}
    about = {row["name"]: row for row in tables.experiments}
    for name in names:
        own = test[test["experiment"] == name]
        first[name] = len(rows)
        line = [cells.name(tables, about[name]), cells.counted(tables, name, own["seed"].nunique())]
        for measure, _, places in MEASURES:
            column = f"copy_{measure}" if copies else measure
            line += [_cell(own.loc[own["stage"] == stage, column], places) for stage, _ in STAGES]
        rows.append(line)
    pairs = "a copied branch and its donor" if copies else "two branches of a network"
    caption = (
        f"How much {pairs} differ, mean over the pairs: test images on which they predict another class, and "
        "Kullback–Leibler divergence of their probabilities, right after surgery and at the end."
    )
    name = "copies-table" if copies else "diversity-table"
    headings = cells.part_headings(tables, first)
    return Table(name, caption, columns, rows, "diversity.csv", headings=headings, folded=not copies)


def _cell(values: pd.Series, places: int) -> Cell:
    known = values.dropna()
    return Cell(spread(known.mean(), known.std(), places)) if len(known) else Cell(number(None))
