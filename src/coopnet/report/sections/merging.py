"""Step 2: networks made of several trained ones."""

import math
import re

import pandas as pd

from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.runs import mean
from coopnet.report.sections import cells
from coopnet.report.wording import DOT, between, count, number


def brief(tables: Tables) -> list[str]:
    """Where merges start, and what is left of that after fine-tuning."""
    if tables.merges.empty:
        return []
    return [sentence for sentence in (_starts(tables), _ends(tables)) if sentence]


def _starts(tables: Tables) -> str:
    """The best and the worst start on one trunk, against the parents' logit ensemble."""
    merges = tables.merges[tables.merges["start"] == "merge"]
    if merges.empty:
        return ""
    gap = (merges["step0_ensemble_top1"] - merges["parents_ensemble_top1"]).groupby(merges["experiment"]).mean()
    best, worst = str(gap.idxmax()), str(gap.idxmin())
    sentence = (
        f"Trained networks merged onto one trunk ({count(len(gap), 'row')}) start, before any training, at "
        f"{between(list(gap))} points of top-1 against the logit ensemble of their parents"
    )
    return f"{sentence}; nearest is {best}, farthest {worst}." if len(gap) > 1 else f"{sentence}."


def _ends(tables: Tables) -> str:
    """Ensembles against the parents' logit ensemble, and against that of the parents trained on."""
    sentence = ""
    for column, whom in (
        ("ensemble_over_parents_ensemble_top1", "the logit ensemble of their parents"),
        ("ensemble_over_control_ensemble_top1", "that of the parents trained on for as long (the control)"),
    ):
        gains = tables.merges.groupby("experiment", sort=False)[column].mean().dropna()
        if len(gains):
            joint = ", and" if sentence else "After fine-tuning,"
            sentence += (
                f"{joint} {int((gains > 0).sum())} of {len(gains)} networks made of several are ahead of {whom} "
                f"({between(list(gains))} points)"
            )
    return f"{sentence}." if sentence else ""


def section(tables: Tables) -> Section | None:
    """Step 0 of each, and the outcome of those that were trained."""
    if tables.merges.empty:
        return None
    picture = Picture(
        "merges",
        "Test top-1 of ensembles: where each network starts and where fine-tuning leads it, with the plain logit "
        "ensemble of its parents and their mean as lines, and the control: the plain ensemble of the parents trained "
        "on.",
        "merges.csv",
    )
    sentence = (
        "Several trained networks become branches of one. What they have to beat is the plain mean of their logits: at "
        "step 0 that of the parents as they are, after fine-tuning that of the parents trained on (the control)."
    )
    items: list[Table | Picture] = [_step0(tables), picture]
    if tables.merges["final_ensemble_top1"].notna().any():
        items.append(_outcome(tables))
    return Section("merging", "Step 2: merging", [sentence], items)


def _step0(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        *(Column(label, "ensemble") for label in ("top-1 (%)", "NLL", "ECE (%)")),
        Column("each branch", "top-1 (%)"),
        Column("ensemble", "parents, top-1 (%)"),
        Column("mean", "parents, top-1 (%)"),
    ]
    rows = []
    for rows_of in _experiments(tables):
        rows.append(
            [
                Cell(str(rows_of["experiment"].iloc[0]), str(rows_of["method"].iloc[0]), "code"),
                cells.counted(tables, str(rows_of["experiment"].iloc[0]), len(rows_of)),
                cells.over_seeds(rows_of["step0_ensemble_top1"]),
                cells.over_seeds(rows_of["step0_ensemble_nll"], 3),
                cells.over_seeds(rows_of["step0_ensemble_ece"]),
                Cell(_branches(rows_of)),
                cells.over_seeds(rows_of["parents_ensemble_top1"]),
                cells.over_seeds(rows_of["parents_mean_top1"]),
            ]
        )
    caption = (
        "Before any training, on the test images, beside the plain logit ensemble of the parents (the ceiling) "
        "and the mean of the parents alone. Branches: means over n seeds."
    )
    return Table("merges-step0-table", caption, columns, rows, "merges.csv")


def _experiments(tables: Tables) -> list[pd.DataFrame]:
    """The rows of each experiment, in the report's order."""
    groups = {str(name): group for name, group in tables.merges.groupby("experiment", sort=False)}
    return [groups[row["name"]] for row in tables.ordered if row["name"] in groups]


def _branches(rows: pd.DataFrame) -> str:
    """Each branch's accuracy at step 0, averaged over seeds."""
    columns = [column for column in rows if re.fullmatch(r"step0_branch\d+_top1", str(column))]
    values = [rows[column].dropna() for column in columns]
    return DOT.join(number(mean(list(value))) for value in values if len(value))


def _outcome(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("top-1 (%)", "ensemble"),
        Column("minus parents", "ensemble"),
        Column("minus control", "ensemble"),
        Column("top-1 (%)", "mean of branches"),
        Column("minus parents", "mean of branches"),
        Column("minus control", "mean of branches"),
        Column("top-5 (%)", "ensemble, top-5"),
        Column("minus control", "ensemble, top-5"),
    ]
    kinds = (
        ("final_ensemble_top1", False),
        ("ensemble_over_parents_ensemble_top1", True),
        ("ensemble_over_control_ensemble_top1", True),
        ("final_branch_mean_top1", False),
        ("branch_mean_over_parents_mean_top1", True),
        ("branch_mean_over_control_mean_top1", True),
        ("final_ensemble_top5", False),
        ("ensemble_over_control_ensemble_top5", True),
    )
    rows = []
    for rows_of in _experiments(tables):
        if math.isnan(rows_of["final_ensemble_top1"].iloc[0]):
            continue
        control = rows_of["control"].iloc[0]
        detail = f"control {control}" if isinstance(control, str) else "no control"
        head = Cell(str(rows_of["experiment"].iloc[0]), detail, "code")
        rows.append([head, *(cells.over_seeds(rows_of[column], sign=sign) for column, sign in kinds)])
    caption = (
        "After fine-tuning, on the test images. Ensembles are compared with the plain logit ensemble of the parents, "
        "and of the parents trained on (the control); branches with the mean of those networks alone."
    )
    return Table("merges-table", caption, columns, rows, "merges.csv")
