"""Networks made of several trained ones, and single branches expanded into several: at transfer, and fine-tuned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from coopnet.report import drawing
from coopnet.report.differences import of_ensembles
from coopnet.report.document import Cell, Column, Picture, Row, Section, Table
from coopnet.report.drawing import BLUE, GREY, INK, ORANGE, PAPER
from coopnet.report.frames import START, Tables
from coopnet.report.topics import cells, curves, growth
from coopnet.report.wording import between, count, listing, number


def section(tables: Tables) -> Section | None:
    """Merges, then expansions."""
    expanded = [row for row in growth.grown(tables, several=False) if row["branches"] > 1]
    if tables.merges.empty and not expanded:
        return None
    sentences: list[str] = []
    items: list[Table | Picture] = []
    if not tables.merges.empty:
        sentences.append(
            "Several trained networks become branches of one. The merged network has to beat the plain mean of logits: "
            "at transfer that of its parents, after fine-tuning that of their continued-training "
            f"controls. {_starts(tables)}".strip()
        )
        sentences += lengths(tables.experiments, tables.merges["experiment"])
        items += [picture(tables), _table(tables)]
    if expanded:
        sentences.append(
            "Expansion makes several branches out of one; its control is that one branch, trained for as long."
        )
        items.append(growth.table(tables, expanded, "expansion-table", "Expansion, after fine-tuning."))
    items += curves.pictures(tables, "curves_merging")
    return Section("merging", "Merging and expanding", sentences, items)


def lengths(experiments: Sequence[Mapping[str, Any]], merges: Iterable[str]) -> list[str]:
    """The epochs of the parents of merged networks, if they differ: part of a gain may come from longer training.

    Args:
        experiments: the study's experiments.
        merges: names of the experiments with several parents.
    """
    rows = {row["name"]: row for row in experiments}
    parents = dict.fromkeys(parent for name in merges for parent in rows[name]["parents"] if parent in rows)
    epochs = {name: rows[name]["epochs"] for name in parents if not rows[name]["parents"]}
    if len(set(epochs.values())) < 2:
        return []
    named = listing(f"{name} has {count(number_of, 'epoch')}" for name, number_of in epochs.items())
    return [f"The merged networks were not trained equally long: {named}; a gain over the shorter ones is partly that."]


def _starts(tables: Tables) -> str:
    """The best and the worst start on one trunk, against the parents' logit ensemble."""
    merges = tables.merges[tables.merges["start"] == "merge"]
    if merges.empty:
        return ""
    gap = (merges[f"{START}_ensemble_top1"] - merges["parents_ensemble_top1"]).groupby(merges["experiment"]).mean()
    sentence = (
        f"Merged onto one trunk ({count(len(gap), 'row')}), networks start at {between(list(gap))} points of top-1 "
        "against the logit ensemble of their parents"
    )
    return f"{sentence}; nearest is {gap.idxmax()}, farthest {gap.idxmin()}." if len(gap) > 1 else f"{sentence}."


def _experiments(tables: Tables) -> list[pd.DataFrame]:
    """The rows of each experiment, in the report's order."""
    groups = {str(name): group for name, group in tables.merges.groupby("experiment", sort=False)}
    return [groups[row["name"]] for row in tables.ordered if row["name"] in groups]


def _largest(tables: Tables) -> tuple[str, list[str]]:
    """The data of most merges, with their names. Accuracies on other data have no common axis."""
    groups = tables.by_dataset(str(frame["experiment"].iloc[0]) for frame in _experiments(tables))
    return max(groups.items(), key=lambda group: len(group[1]))


def picture(tables: Tables) -> Picture:
    """The figure's caption, and its finding in words."""
    ends = tables.merges.groupby("experiment", sort=False)["ensemble_over_control_ensemble_top1"].mean().dropna()
    finding = listing(f"{name} {number(value, sign=True)}" for name, value in ends.items())
    return Picture(
        "merging",
        "From transfer to the end. Test top-1 of each ensemble at transfer (open) and after fine-tuning (filled), "
        "beside the plain logit ensemble of its parents (short line), and that of the controls (long "
        "line).",
        f"Against the control after fine-tuning: {finding or 'not trained'}.",
        "merges.csv",
    )


def figures(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """The figure, by name."""
    return {} if tables.merges.empty else {"merging": lambda: draw(tables)}


def draw(tables: Tables) -> Figure:
    """A row per experiment."""
    frames = {str(frame["experiment"].iloc[0]): frame.mean(numeric_only=True) for frame in _experiments(tables)}
    title, names = _largest(tables)
    rows = drawing.Rows({"": names}, [f"test top-1 of the ensemble on {title} (%)"])
    (axes,) = rows.panels
    for (_, name), y in rows.y.items():
        own = frames[name]
        start, end = own[f"{START}_ensemble_top1"], own["final_ensemble_top1"]
        for value, tall, colour in (
            (own["parents_ensemble_top1"], 0.06, GREY),
            (own["control_ensemble_top1"], 0.1, INK),
        ):
            axes.plot([value, value], [y - tall, y + tall], color=colour, linewidth=1.8)
        axes.plot([start, end], [y, y], color=BLUE, linewidth=1.1)
        axes.plot(start, y, marker="o", color=ORANGE, mfc=PAPER)
        axes.plot(end, y, marker="D", color=BLUE)
    axes.margins(x=0.04)
    marks = [
        drawing.mark(ORANGE, "o", "at transfer", filled=False),
        drawing.mark(BLUE, "D", "after fine-tuning"),
        drawing.mark(GREY, "|", "parents’ ensemble"),
        drawing.mark(INK, "|", "control"),
    ]
    drawing.legend(rows.figure, marks, 2)
    return rows.figure


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        Column("ensemble", "at transfer, top-1 (%)"),
        Column("parents’ ensemble", "at transfer, top-1 (%)"),
        Column("ECE (%)", "at transfer"),
        Column("ensemble", "fine-tuned, top-1 (%)"),
        Column("minus control, [95 %]", "fine-tuned, top-1 (%)"),
        Column("branches minus single controls", "fine-tuned, top-1 (%)"),
    ]
    against = of_ensembles(tables)
    rows = []
    for frame in _experiments(tables):
        name = str(frame["experiment"].iloc[0])
        trained = not math.isnan(frame["final_ensemble_top1"].iloc[0])
        line = [
            Cell(name, str(frame["method"].iloc[0]), "code", cells.anchor(name)),
            cells.counted(tables, name, len(frame)),
            cells.over_seeds(frame[f"{START}_ensemble_top1"]),
            cells.over_seeds(frame["parents_ensemble_top1"]),
            cells.over_seeds(frame[f"{START}_ensemble_ece"]),
            cells.over_seeds(frame["final_ensemble_top1"]) if trained else cells.DASH,
            cells.to_control(against.get(name)),
            cells.over_seeds(frame["branch_mean_over_control_mean_top1"], sign=True),
        ]
        control = frame["control"].iloc[0]
        more = cells.unfolded(
            ("control", control if isinstance(control, str) else ""),
            ("at transfer", cells.seeds(frame[f"{START}_ensemble_top1"])),
            ("branches at transfer", _branches(frame)),
            ("fine-tuned", cells.seeds(frame["final_ensemble_top1"])),
            ("minus control", cells.seeds(frame["ensemble_over_control_ensemble_top1"], sign=True)),
        )
        rows.append(Row(line, more=more))
    caption = (
        "Merging and combining. Test accuracy at transfer, beside the plain logit ensemble of the parents, and after "
        "fine-tuning, against the continued-training controls: their plain ensemble, and their mean alone."
    )
    return Table("merging-table", caption, columns, rows, "merges.csv")


def _branches(rows: pd.DataFrame) -> str:
    """Each branch's accuracy at transfer, averaged over seeds."""
    columns: Sequence[str] = [str(column) for column in rows if str(column).startswith(f"{START}_branch")]
    return cells.seeds([float(rows[column].mean()) for column in columns])
