"""Networks made of several trained ones, and single branches expanded into several: at transfer, and fine-tuned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from coopnet.report import drawing
from coopnet.report.differences import control_of, of_ensembles
from coopnet.report.document import Cell, Column, Picture, Row, Section, Table
from coopnet.report.drawing import BLUE, GREY, INK, ORANGE, PAPER
from coopnet.report.frames import START, Tables, dataset
from coopnet.report.topics import cells, curves, growth
from coopnet.report.wording import between, count, first_of, listing, number, span


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
        items += [picture(tables), _table(tables)]
    if expanded:
        sentences.append(
            "Expansion makes several branches out of one; its control is that one branch, trained for as long."
        )
        items.append(growth.table(tables, expanded, "expansion-table", "Expansion, after fine-tuning."))
    sentences += lengths(tables.ordered, [*tables.merges["experiment"], *(row["name"] for row in expanded)])
    items += curves.pictures(tables, "curves_merging")
    return Section("merging", "Merging and expanding", sentences, items)


def lengths(experiments: Sequence[Mapping[str, Any]], merges: Iterable[str]) -> list[str]:
    """The epochs of the parents and of the plain network, if they differ: a gain may be one of more epochs.

    Args:
        experiments: the study's experiments.
        merges: names of the merged and expanded experiments.
    """
    rows = {row["name"]: row for row in experiments}
    parents = dict.fromkeys(parent for name in merges for parent in rows[name]["parents"] if parent in rows)
    own = [rows[name] for name in parents if not rows[name]["parents"]]
    plain = [row for row in experiments if not row["parents"] and row["row"]["model"]["gate"] == "none"]
    alike = [row for row in plain if (row["network"], dataset(row)) in [(one["network"], dataset(one)) for one in own]]
    epochs = {row["name"]: row["epochs"] for row in [*own, *alike[:1]]}
    if len(set(epochs.values())) < 2:
        return []
    named = listing(f"{name} has {count(number_of, 'epoch')}" for name, number_of in epochs.items())
    shorter = listing(name for name, number_of in epochs.items() if number_of < max(epochs.values()))
    return [
        f"The parents and the plain network were not all trained equally long: {named}. A gain over a parent alone is "
        f"partly due to more epochs, most of all over {shorter}. A difference to a control is not, as the control "
        "continues the same networks."
    ]


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
    if len(gap) > 1:
        sentence += f"; nearest is {gap.idxmax()}, farthest {gap.idxmin()}"
    return f"{sentence} ({_replicates(merges)})."


def _replicates(merges: pd.DataFrame) -> str:
    """`one replicate`, or `means over 3 replicates`."""
    n = set(merges.groupby("experiment").size())
    return "one replicate" if n == {1} else f"means over {span(n)} replicates"


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
        "beside the plain logit ensemble of its parents (cross), and that of the controls "
        f"(line); {_replicates(tables.merges)}.{first_of(len(_largest(tables)[1]), len(_experiments(tables)))}",
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
        axes.plot(own["parents_ensemble_top1"], y, marker="x", color=GREY)
        control = own["control_ensemble_top1"]
        axes.plot([control, control], [y - 0.1, y + 0.1], color=INK, linewidth=1.8)
        axes.plot([start, end], [y, y], color=BLUE, linewidth=1.1)
        axes.plot(start, y, marker="o", color=ORANGE, mfc=PAPER)
        axes.plot(end, y, marker="D", color=BLUE)
    axes.margins(x=0.04)
    marks = [
        drawing.mark(ORANGE, "o", "at transfer", filled=False),
        drawing.mark(BLUE, "D", "after fine-tuning"),
        drawing.mark(GREY, "x", "parents’ ensemble"),
        drawing.mark(INK, "|", "control"),
    ]
    drawing.legend(rows.figure, marks)
    return rows.figure


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        Column("ensemble", "at transfer, top-1 (%)"),
        Column("parents’ ensemble", "at transfer, top-1 (%)"),
        Column("ECE (%)", "at transfer"),
        Column("ensemble", "fine-tuned, top-1 (%)"),
        Column("minus control, [95\u00a0%]", "fine-tuned, top-1 (%)"),
        Column("branches minus single controls", "fine-tuned, top-1 (%)"),
    ]
    against, rows_of = of_ensembles(tables), {row["name"]: row for row in tables.experiments}
    rows = []
    for frame in _experiments(tables):
        name = str(frame["experiment"].iloc[0])
        trained = not math.isnan(frame["final_ensemble_top1"].iloc[0])
        line = [
            Cell(name, f"{frame['method'].iloc[0]}; from {_parents(rows_of, name)}", "code", cells.anchor(name)),
            cells.counted(tables, name, len(frame)),
            cells.over_seeds(frame[f"{START}_ensemble_top1"]),
            cells.over_seeds(frame["parents_ensemble_top1"]),
            cells.over_seeds(frame[f"{START}_ensemble_ece"]),
            cells.over_seeds(frame["final_ensemble_top1"]) if trained else cells.DASH,
            cells.to_control(against.get(name)),
            cells.over_seeds(frame["branch_mean_over_control_mean_top1"], sign=True),
        ]
        control = control_of(frame[frame["ensemble_over_control_ensemble_top1"].notna()])
        more = cells.unfolded(
            ("control", control or ""),
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


def _parents(rows: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """`baseline (20 epochs) and one1 (11 epochs)`; only the names of networks that the study lacks."""
    parents = dict.fromkeys(rows[name]["parents"])
    return listing(f"{one} ({count(rows[one]['epochs'], 'epoch')})" if one in rows else one for one in parents)


def _branches(rows: pd.DataFrame) -> str:
    """Each branch's accuracy at transfer, averaged over seeds."""
    columns: Sequence[str] = [str(column) for column in rows if str(column).startswith(f"{START}_branch")]
    return cells.seeds([float(rows[column].mean()) for column in columns])
