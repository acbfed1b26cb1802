"""Part 3: networks alone, their ensembles, and students of either."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from coopnet.report import starts
from coopnet.report.document import Cell, Column, Section, Table
from coopnet.report.frames import Tables, dataset
from coopnet.report.sections import cells
from coopnet.report.wording import TIMES, between, count


def brief(tables: Tables) -> list[str]:
    """What ensembles gain over their members, and students over the same network trained alone."""
    frame = tables.distillation
    top1 = frame[(frame["split"] == "test") & (frame["score"] == "top1")]
    plain = {row["name"] for row in tables.experiments if starts.is_plain_ensemble(row["row"])}
    ensembles = top1[top1["experiment"].isin(plain)]
    students = top1[top1["teacher"].notna()]
    sentences = []
    if len(ensembles):
        probabilities, logits = (
            _gains(ensembles.assign(gain=ensembles[kind] - ensembles["network"]), "gain")
            for kind in ("probabilities", "logits")
        )
        sentences.append(
            f"{count(len(probabilities), 'plain ensemble')} of trained networks against the mean of those networks: "
            f"{between(probabilities)} points of top-1 by the mean of probabilities, {between(logits)} by the mean of "
            "logits."
        )
    alone, teacher = _gains(students, "over_single"), _gains(students, "over_teacher")
    if alone:
        sentence = f"Students ({len(alone)} experiments)" if len(alone) > 1 else "The student"
        sentence += f" against the same network trained alone: {between(alone)} points"
        sentences.append(f"{sentence}; against the teacher: {between(teacher)}.")
    return sentences


def _gains(frame: pd.DataFrame, column: str) -> list[float]:
    """Means over seeds, per experiment."""
    return [float(value) for value in frame.groupby("experiment", sort=False)[column].mean().dropna()]


def section(tables: Tables) -> Section | None:
    """One table of them all, by data and kind of network."""
    if tables.distillation.empty:
        return None
    sentence = (
        "An ensemble is the mean of its networks' probabilities; the mean of their logits (weighted by the gate where "
        "there is one) stands beside it. A student is compared with its own teacher, and with the same network trained "
        "alone."
    )
    return Section("distillation", "Ensembles and distillation", [sentence, *_resolution(tables)], [_table(tables)])


def _resolution(tables: Tables) -> list[str]:
    """Where the protocol of Part 3 is not the published one; nothing where its network is not in the table."""
    shown = set(tables.distillation["experiment"])
    if not any(row["row"]["model"]["family"] == "resnet18" for row in tables.experiments if row["name"] in shown):
        return []
    return [
        f"ResNet-18 sees images at 32{TIMES}32 here, through a stem made for them; the published study of Part 3 "
        f"enlarged them to 224{TIMES}224, so its accuracies and these were not measured alike."
    ]


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        Column("validation"),
        Column("one network", "test top-1 (%)"),
        Column("probabilities", "test top-1 (%), ensemble"),
        Column("logits", "test top-1 (%), ensemble"),
        Column("teacher", "test, minus (points)"),
        Column("single", "test, minus (points)"),
    ]
    frame = tables.distillation[tables.distillation["score"] == "top1"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in tables.ordered:
        if row["name"] in set(frame["experiment"]):
            groups.setdefault(f"{dataset(row)}, {row['backbone']}", []).append(row)
    rows: list[list[Cell]] = []
    headings = {}
    for title, members in groups.items():
        headings[len(rows)] = title
        rows += [_row(tables, frame[frame["experiment"] == row["name"]]) for row in members]
    caption = (
        "Top-1 on validation images (of an ensemble: mean of probabilities) and on test images, mean ± standard "
        "deviation over n seeds, each seed below. Single: the same network trained alone, mean over its seeds; of a "
        "plain ensemble, the mean of its members."
    )
    return Table("distillation-table", caption, columns, rows, "distillation.csv", headings=headings)


def _row(tables: Tables, frame: pd.DataFrame) -> list[Cell]:
    test, validation = frame[frame["split"] == "test"], frame[frame["split"] == "validation"]
    head = test.iloc[0]
    words = [str(head["method"])]
    words += [f"teacher {head['teacher']}"] if isinstance(head["teacher"], str) else []
    words += [f"single {head['single']}"] if isinstance(head["single"], str) and head["single"] != "its members" else []
    return [
        Cell(str(head["experiment"]), "; ".join(words), "code"),
        cells.counted(tables, str(head["experiment"]), len(test)),
        cells.over_seeds(validation["value"]),
        *(cells.over_seeds(test[column]) for column in ("network", "probabilities", "logits")),
        cells.over_seeds(test["over_teacher"], sign=True),
        cells.over_seeds(test["over_single"], sign=True),
    ]
