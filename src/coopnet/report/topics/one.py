"""ONE itself: more branches, the network without one of its parts, votes of fewer branches."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from coopnet.report import drawing
from coopnet.report.differences import GROUPS, Difference, differences
from coopnet.report.document import Cell, Column, Picture, Row, Section, Table
from coopnet.report.drawing import BLUE, GREEN, ORANGE, PAPER
from coopnet.report.frames import Tables
from coopnet.report.topics import cells, curves
from coopnet.report.wording import between, count, listing, number

RULES = {"gate": "gate-weighted logits", "mean": "mean of probabilities", "majority": "majority vote"}
MARKS = {"gate": (BLUE, "D"), "mean": (ORANGE, "o"), "majority": (GREEN, "s")}


def section(tables: Tables) -> Section | None:
    """ONE against the plain network, ablations, votes and learning curves."""
    several = [r for r in tables.experiments if r["branches"] > 1 and r["start"] == "random" and not _muted(r)]
    if not several:
        return None
    final, branches = tables.final("ensemble"), tables.final("branch_mean")
    gains = [final[row["name"]] - branches[row["name"]] for row in several]
    sentences = [
        f"In {sum(gain > 0 for gain in gains)} of {count(len(gains), 'network')} trained from scratch with several "
        f"branches the ensemble is ahead of the mean of its branches, by {between(gains)} points of top-1."
    ]
    found = [one for one in differences(tables) if one.group in ("one", "ablation")]
    items: list[Table | Picture] = [_table(found)] if found else []
    sentences += _disagreement(tables, [one for one in found if one.group == "ablation"])
    items += curves.pictures(tables, "curves_scratch")
    if not tables.votes.empty:
        sentences.append(_votes(tables))
        items += [_picture(tables), *([_best(tables)] if not tables.votes_best.empty else []), _every(tables)]
    return Section("one", "ONE, its parts, and votes", sentences, items)


def _disagreement(tables: Tables, ablations: Sequence[Difference]) -> list[str]:
    """How often branches disagree, with all parts of ONE and without one: what an ensemble can gain from."""
    test = tables.diversity[(tables.diversity["split"] == "test") & (tables.diversity["stage"] == "final")]
    means = test.groupby("experiment")["disagreement"].mean()
    names = dict.fromkeys(name for one in ablations for name in (one.experiment, one.control) if name in means)
    if len(names) < 2:
        return []
    shares = listing(f"{number(means[name], 1)} % in {name}" for name in names)
    return [f"Two branches of a network disagree on this share of test images (mean over pairs and seeds): {shares}."]


def _muted(row: dict[str, Any]) -> bool:
    """Whether some of its branches never have weight in the ensemble."""
    return row["row"]["start"].get("opens") is False


def _table(found: Sequence[Difference]) -> Table:
    columns = [
        Column("Network", numeric=False),
        Column("Control", numeric=False),
        Column("n"),
        Column("minus control, [95\u00a0%]", "top-1 (points)"),
        Column("Claims", numeric=False),
    ]
    rows: list[Row] = []
    headings: dict[str, int] = {}
    for one in found:
        headings.setdefault(GROUPS[one.group], len(rows))
        rows.append(
            Row(
                [
                    Cell(one.label, tone="code", link=cells.anchor(one.experiment)),
                    Cell(one.control, tone="code", link=cells.anchor(one.control)),
                    Cell(str(one.n)),
                    cells.to_control(one),
                    Cell("", links=[(claim, f"claim-{claim}") for claim in dict.fromkeys(one.claims)]),
                ]
            )
        )
    caption = "ONE against the plain network, and against itself without one of its parts. Differences in test top-1."
    parts = {place: title for title, place in headings.items()}
    return Table("one-table", caption, columns, rows, "../claims.json", parts)


# Votes ---------------------------------------------------------------------------------------------


def _votes(tables: Tables) -> str:
    sentence = (
        "A vote takes some of a network’s branches and combines them by the gate’s weights over their logits, by the "
        "plain mean of their probabilities, or by majority."
    )
    best = tables.votes_best
    smaller = best[(best["score"] == "top1") & (best["size"] < best["size"].max())] if len(best) else best
    if smaller.empty:
        return f"{sentence} No network of this kind has validation images, so no subset is chosen."
    gains = [float(gain) for gain in smaller.groupby(["experiment", "rule", "size"], sort=False)["over_all"].mean()]
    return (
        f"{sentence} Of {len(gains)} votes of fewer branches (by rule and size, the subset that is best on validation "
        f"images), {sum(gain >= 0 for gain in gains)} reach the top-1 of all branches on test; the difference is "
        f"{between(gains)} points."
    )


def _picture(tables: Tables) -> Picture:
    name, several = _voter(tables), tables.votes["experiment"].nunique() > 1
    means = listing(number(value, 1) + " %" for value in _by_size(tables, name, "gate")["mean"])
    return Picture(
        "votes",
        f"Votes of branches of {name}. Test top-1, mean over all subsets of a size and over seeds, with the lowest and "
        f"the highest subset as a line.{' The table has the other networks.' if several else ''}",
        f"By the gate, in the order of their number: {means}.",
        "votes.csv",
    )


def _voter(tables: Tables) -> str:
    """The first network with votes that were chosen on validation images, or else the first with votes."""
    known = set(tables.votes_best["experiment"]) or set(tables.votes["experiment"])
    return next(str(row["name"]) for row in tables.ordered if row["name"] in known)


def _by_size(tables: Tables, name: str, rule: str) -> pd.DataFrame:
    """Mean, lowest and highest test top-1 of the subsets of each size."""
    votes = tables.votes[(tables.votes["split"] == "test") & (tables.votes["rule"] == rule)]
    each = votes[votes["experiment"] == name].groupby(["size", "subset"])["top1"].mean()
    return each.groupby("size").agg(["mean", "min", "max"])


def figures(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """The figure of votes, by name."""
    return {} if tables.votes.empty else {"votes": lambda: draw(tables)}


def draw(tables: Tables) -> Figure:
    """A row per number of branches, a mark per rule."""
    name = _voter(tables)
    sizes = {rule: _by_size(tables, name, rule) for rule in MARKS}
    rows = drawing.Rows({name: [_branches(size) for size in sizes["gate"].index]}, ["test top-1 (%)"])
    (axes,) = rows.panels
    for shift, (rule, (colour, shape)) in zip((-0.06, 0.0, 0.06), MARKS.items(), strict=True):
        for size, line in sizes[rule].iterrows():
            y = rows.y[name, _branches(size)] + shift
            axes.plot([line["min"], line["max"]], [y, y], color=colour, linewidth=1.0)
            axes.plot(line["mean"], y, marker=shape, color=colour, mfc=PAPER, markersize=4)
    axes.margins(x=0.04)
    drawing.legend(rows.figure, [drawing.mark(c, s, RULES[rule], filled=False) for rule, (c, s) in MARKS.items()])
    return rows.figure


def _branches(size: Any) -> str:
    return f"{size} branch" if size == 1 else f"{size} branches"


def _best(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Rule", numeric=False),
        Column("Size"),
        Column("subset", "top-1 (%)", numeric=False),
        *(Column(label, "top-1 (%)") for label in ("validation", "test", "minus all")),
    ]
    best = tables.votes_best[tables.votes_best["score"] == "top1"]
    rows = []
    for line in best.to_dict("records"):
        rows.append(
            Row(
                [
                    Cell(str(line["experiment"]), f"seed {line['seed']}", "code"),
                    Cell(RULES.get(str(line["rule"]), str(line["rule"]))),
                    Cell(str(line["size"])),
                    Cell(str(line["subset"])),
                    *(Cell(number(line[column])) for column in ("validation", "test")),
                    Cell(number(line["over_all"], sign=True)),
                ]
            )
        )
    caption = (
        "Votes chosen on validation images: of each size the best subset of branches, and its accuracy on test images, "
        "also against the vote of all branches under the same rule (points)."
    )
    title = "Votes chosen on validation images"
    return Table("votes-best-table", caption, columns, rows, "votes_best.csv", title=title, where="appendix")


def _every(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Branches", numeric=False),
        *(Column(label, "top-1 (%)") for label in RULES.values()),
    ]
    test = tables.votes[tables.votes["split"] == "test"]
    means = test.groupby(["experiment", "size", "subset", "rule"])["top1"].mean().unstack("rule")
    rows = []
    for name in (row["name"] for row in tables.ordered if row["name"] in means.index.get_level_values(0)):
        for subset, line in means.loc[name].droplevel("size").iterrows():
            head = [Cell(name, tone="code"), Cell(str(subset))]
            rows.append(Row(head + [Cell(number(line.get(rule))) for rule in RULES]))
    caption = "Every subset of branches on the test images: means over seeds."
    title = "Every vote"
    return Table("votes-table", caption, columns, rows, "votes.csv", title=title, where="appendix")
