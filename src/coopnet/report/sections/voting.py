"""Votes of fewer branches than a network has."""

import math
from collections.abc import Sequence

import pandas as pd

from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.wording import between, number

RULES = {"gate": "gate-weighted logits", "mean": "mean of probabilities", "majority": "majority vote"}
LETTERS = {"top1": "top-1", "top5": "top-5"}

MOST_SEEDS = 20
"""Seeds whose votes get a mark each; with 333, the figure alone had 25 MB."""


def experiments(tables: Tables) -> list[str]:
    """Those whose votes are counted, in the report's order."""
    names = set(tables.votes["experiment"])
    return [row["name"] for row in tables.ordered if row["name"] in names]


def brief(tables: Tables) -> list[str]:
    """How the validation-chosen subsets compare with the vote of all, on test."""
    best = tables.votes_best
    smaller = best[(best["score"] == "top1") & (best["size"] < best["size"].max())] if len(best) else best
    if smaller.empty:
        return []
    gains = list(smaller.groupby(["experiment", "rule", "size"], sort=False)["over_all"].mean())
    reach = sum(gain >= 0 for gain in gains)
    return [
        f"Of {len(gains)} votes of fewer branches (by rule and size, the subset chosen on validation images), {reach} "
        f"reach the top-1 of all branches on test; the difference is {between(gains)} points."
    ]


def section(tables: Tables) -> Section | None:
    """The figure, what validation chose, and every subset."""
    names = experiments(tables)
    if not names:
        return None
    held = not tables.votes_best.empty
    ring = ", a ring around those that validation images chose" if held else ""
    picture = Picture(
        "votes",
        f"Test top-1 of every subset of branches, under three rules: a faint mark per {_each(tables)}{ring}, and a "
        "line at the mean of all subsets of a size.",
        "votes.csv",
    )
    sentence = (
        "A vote takes some of a trained network's branches and combines them: by the gate's weights over their logits, "
        "by the plain mean of their probabilities, or by majority (ties to the class with the larger summed "
        "probability)."
    )
    chosen = (
        " Subsets are chosen on validation images and then measured on test images, never the other way round."
        if held
        else " No network of this kind has validation images, so no subset is chosen."
    )
    items: list[Table | Picture] = [picture, *([_best(tables)] if held else []), _every(tables, names)]
    return Section("voting", "Voting", [sentence + chosen], items)


def marks(tables: Tables) -> pd.DataFrame:
    """Test top-1 of each mark of the figure, by experiment, rule, size and subset: the table `votes`, or its means."""
    test = tables.votes[tables.votes["split"] == "test"]
    if test["seed"].nunique() <= MOST_SEEDS:
        return test
    return test.groupby(["experiment", "rule", "size", "subset"], as_index=False)[["top1"]].mean()


def _each(tables: Tables) -> str:
    return "subset and seed" if "seed" in marks(tables) else "subset, at its mean over seeds"


def _best(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Rule", numeric=False),
        Column("Size"),
        *(
            Column(label, group)
            for group in LETTERS.values()
            for label in ("subset", "validation", "test", "minus all")
        ),
    ]
    best = tables.votes_best
    rows: list[list[Cell]] = []
    rules = []
    for (name, seed, rule), group in best.groupby(["experiment", "seed", "rule"], sort=False):
        rules.append(len(rows))
        for size, pair in group.groupby("size"):
            first = len(rows) == rules[-1]
            head = Cell(str(name), f"seed {seed}", "code") if first else Cell("")
            line = [head, Cell(RULES.get(str(rule), str(rule)) if first else ""), Cell(str(size))]
            for score in LETTERS:
                line += _chosen(pair[pair["score"] == score])
            rows.append(line)
    caption = (
        "Of each size the subset of branches that is best on validation images, and its accuracy (%) on test images, "
        "also against the vote of all branches under the same rule (points)."
    )
    return Table("votes-best-table", caption, columns, rows, "votes_best.csv", rules)


def _chosen(line: pd.DataFrame) -> list[Cell]:
    first = line.iloc[0]
    return [
        Cell(str(first["subset"])),
        *(Cell(number(first[column])) for column in ("validation", "test")),
        Cell(number(first["over_all"], sign=True)),
    ]


def _every(tables: Tables, names: Sequence[str]) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Branches", numeric=False),
        *(Column(label, group) for group in ("top-1 (%)", "top-5 (%)") for label in RULES.values()),
    ]
    test = tables.votes[tables.votes["split"] == "test"]
    means = test.groupby(["experiment", "size", "subset", "rule"])[list(LETTERS)].mean().unstack("rule")
    rows: list[list[Cell]] = []
    first = {}
    for name in names:
        first[name] = len(rows)
        for subset, line in means.loc[name].droplevel("size").iterrows():
            head = [Cell(name if len(rows) == first[name] else "", tone="code"), Cell(str(subset))]
            rows.append(head + [Cell(_mean(line.get((score, rule)))) for score in LETTERS for rule in RULES])
    caption = "Every subset of branches on the test images: means over seeds."
    rules = list(first.values())
    return Table("votes-table", caption, columns, rows, "votes.csv", rules, folded=True)


def _mean(value: float | None) -> str:
    return number(None if value is None or math.isnan(value) else float(value))
