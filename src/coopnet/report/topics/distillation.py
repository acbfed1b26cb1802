"""Part 3: networks alone, their ensembles, and students of either."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from coopnet.report import starts
from coopnet.report.differences import of_ensembles, to_single
from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables, dataset
from coopnet.report.topics import cells
from coopnet.report.topics.method import cite
from coopnet.report.wording import TIMES, between, count


def section(tables: Tables) -> Section | None:
    """One table of them all, by data and kind of network; None if the study has no row of Part 3."""
    if tables.distillation.empty or "distillation" not in tables.parts:
        return None
    sentences = [
        "An ensemble is the mean of its networks’ probabilities; the mean of their logits (weighted by the gate if "
        "there is one) is beside it. A student learns from a teacher’s probabilities "
        f"{cite('hinton', 'born')}, networks in mutual learning from each other’s {cite('mutual')}; each is compared "
        "with its teacher, and with the same network trained alone.",
        *_gains(tables),
        *_resolution(tables),
    ]
    return Section("distillation", "Part 3: ensembles and distillation", sentences, [_table(tables)])


def _gains(tables: Tables) -> list[str]:
    """Gains of ensembles over their members, and of students over the same network trained alone."""
    frame = tables.distillation
    top1 = frame[(frame["split"] == "test") & (frame["score"] == "top1")]
    plain = {
        row["name"]
        for row in tables.experiments
        if starts.is_plain_ensemble(row["row"]) and row["part"] == "distillation"  # the others are controls of merges
    }
    ensembles, students = top1[top1["experiment"].isin(plain)], top1[top1["teacher"].notna()]
    sentences = []
    if len(ensembles):
        gains = _mean(ensembles, "over_single")
        sentences.append(
            f"{count(len(gains), 'plain ensemble')} of Part 3 against the mean of "
            f"{'its' if len(gains) == 1 else 'their'} networks: {between(gains)} points of top-1."
        )
    if alone := _mean(students, "over_single"):
        sentences.append(
            f"{count(len(alone), 'student')} against the same network trained alone: {between(alone)} points; against "
            f"the teacher: {between(_mean(students, 'over_teacher'))}."
        )
    return sentences


def _mean(frame: pd.DataFrame, column: str) -> list[float]:
    """Means over seeds, per experiment."""
    return [float(value) for value in frame.groupby("experiment", sort=False)[column].mean().dropna()]


def _resolution(tables: Tables) -> list[str]:
    """The difference from the published protocol of Part 3; empty if its network is not in the table."""
    shown = set(tables.distillation["experiment"])
    own = [row["row"] for row in tables.experiments if row["name"] in shown]
    if not any(row["model"]["family"] == "resnet18" and row["data"]["dataset"].startswith("cifar") for row in own):
        return []
    return [
        f"ResNet-18 sees images at 32{TIMES}32 here, through a stem made for them; the published study of Part 3 "
        f"enlarged them to 224{TIMES}224, so its accuracies and these were not measured alike."
    ]


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        Column("one network", "test top-1 (%)"),
        Column("mean of probabilities", "test top-1 (%)"),
        Column("mean of logits", "test top-1 (%)"),
        Column("minus teacher", "points"),
        Column("minus alone, [95\u00a0%]", "points"),
    ]
    frame = tables.distillation[tables.distillation["score"] == "top1"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in tables.ordered:
        if row["name"] in set(frame["experiment"]):
            groups.setdefault(f"{dataset(row)}, {row['backbone']}", []).append(row)
    rows: list[Row] = []
    headings = {}
    for title, members in groups.items():
        headings[len(rows)] = title
        rows += [_row(tables, frame[frame["experiment"] == row["name"]]) for row in members]
    caption = (
        "Ensembles and students. Test top-1, mean ± standard deviation over n seeds. Alone: the same network trained "
        "alone, mean over its seeds; for a student, over those that its teacher consists of; for a plain ensemble, "
        "over its members. The last two columns take a plain ensemble by its mean of probabilities, and other networks "
        "by the column “one network”."
    )
    return Table("distillation-table", caption, columns, rows, "distillation.csv", headings)


def _row(tables: Tables, frame: pd.DataFrame) -> Row:
    test, validation = frame[frame["split"] == "test"], frame[frame["split"] == "validation"]
    head = test.iloc[0]
    name = str(head["experiment"])
    against = of_ensembles(tables).get(name)
    line = [
        Cell(name, str(head["method"]), "code", cells.anchor(name)),
        cells.counted(tables, name, len(test)),
        *(cells.over_seeds(test[column]) for column in ("network", "probabilities", "logits")),
        cells.over_seeds(test["over_teacher"], sign=True),
        cells.to_control(against if against and against.group == "distillation" else to_single(tables, name)),
    ]
    more = cells.unfolded(
        ("teacher", head["teacher"] if isinstance(head["teacher"], str) else ""),
        ("alone", head["single"] if isinstance(head["single"], str) else ""),
        ("validation", cells.seeds(validation["value"])),
        ("test", cells.seeds(test["value"])),
        ("minus alone", cells.seeds(test["over_single"], sign=True)),
    )
    return Row(line, more=more)
