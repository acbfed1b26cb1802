"""Calibration of the networks and diversity of their branches, with a dot plot each."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from coopnet.report import drawing
from coopnet.report.document import Cell, Column, Picture, Row, Section, Table
from coopnet.report.drawing import BLUE, INK, ORANGE, PAPER
from coopnet.report.frames import PARTS, START, Tables, records
from coopnet.report.topics import cells
from coopnet.report.topics.method import cite
from coopnet.report.wording import between, count, first_of, number

ROWS = 20
"""Most rows of a dot plot; the tables have all rows."""


def section(tables: Tables) -> Section:
    """The dot plots; every score is in the table of branches."""
    gaps = excess(tables)
    over = sum(gap > 0 for gap in gaps.values())
    sentences = [
        f"A calibrated network is right as often as it is confident {cite('ece')}. At the end {over} of "
        f"{count(len(gaps), 'network')} {'is' if over == 1 else 'are'} overconfident on the test images; mean "
        f"confidence minus accuracy is {between(list(gaps.values()))} points{_untrained(tables, gaps)}.",
        *_apart(tables),
    ]
    items: list[Table | Picture] = [_confidence(tables)]
    if not tables.diversity.empty:
        items += [_differing(tables), _table(tables)]
    return Section("calibration", "Calibration and diversity", sentences, items)


def excess(tables: Tables) -> dict[str, float]:
    """Mean confidence minus accuracy (points) of every experiment's final ensemble."""
    final = tables.reliability[tables.reliability["stage"] == "final"]
    weighted = (final["confidence"] - final["accuracy"]) * final["images"]
    groups = final.assign(weighted=weighted).groupby("experiment", sort=False)
    found = groups["weighted"].sum() / groups["images"].sum()
    return {str(name): float(value) for name, value in found.items()}


def shown(tables: Tables, names: set[str]) -> dict[str, list[str]]:
    """Rows of a dot plot by part: whole parts as long as they fit, then the first rows of the next part."""
    groups: dict[str, list[str]] = {}
    room = ROWS
    for part, rows in tables.parts.items():
        own = [row["name"] for row in rows if row["name"] in names][: max(room, 0)]
        if own:
            groups[PARTS.get(part, part) if len(tables.parts) > 1 else ""] = own
            room -= len(own)
    return groups


def _part(tables: Tables, names: set[str]) -> str:
    """What a caption says if a dot plot lacks rows."""
    return first_of(sum(map(len, shown(tables, names).values())), len(names), "a table in the appendix has all")


def _untrained(tables: Tables, gaps: Mapping[str, float]) -> str:
    """The most overconfident network among the others, if the first was never trained after its transfer."""
    untrained = {row["name"] for row in tables.experiments if not row["epochs"] and row["start"] == "merge"}
    trained = [gap for name, gap in gaps.items() if name not in untrained]
    if len(trained) in (0, len(gaps)) or max(trained) == max(gaps.values()):
        return ""
    return f" (at most {number(max(trained), sign=True)} without the merges that are not trained)"


def _means(tables: Tables) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Mean diversity over seeds on the test images, by experiment and stage."""
    test = tables.diversity[tables.diversity["split"] == "test"]
    columns = [column for column in test if column not in ("experiment", "seed", "stage", "split")]
    means = records(test.groupby(["experiment", "stage"], sort=False)[columns].mean().reset_index())
    return {(row["experiment"], row["stage"]): row for row in means}


def _apart(tables: Tables) -> list[str]:
    """Whether copies and their donors grow apart."""
    means = _means(tables) if not tables.diversity.empty else {}
    names = [row["name"] for row in tables.ordered if row["epochs"]]
    pairs = [(means.get((name, START)), means.get((name, "final"))) for name in names]
    changes = [  # exact copies stay equal, but for rounding
        float(after["copy_disagreement"] - before["copy_disagreement"])
        for before, after in pairs
        if before and after and before["copy_disagreement"] > 0 and pd.notna(after["copy_disagreement"])
    ]
    if not changes:
        return []
    grew, shrank = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    return [
        f"Of {count(len(changes), 'network')} with noisy copies, copy and donor disagree on more test images after "
        f"training than at transfer in {grew}, on fewer in {shrank} ({between(changes)} points)."
    ]


def _confidence(tables: Tables) -> Picture:
    gaps = excess(tables)
    most = max(gaps, key=lambda name: abs(gaps[name]))
    return Picture(
        "calibration",
        "Calibration. Left, expected calibration error of the ensemble at the end; right, mean confidence minus "
        "accuracy: to the right of the line a network is overconfident."
        f"{_part(tables, {*gaps})}",
        f"Farthest from calibrated is {most}, {number(gaps[most], sign=True)} points.",
        "reliability.csv",
    )


def _differing(tables: Tables) -> Picture:
    means = _means(tables)
    ends = {name: row["disagreement"] for (name, stage), row in means.items() if stage == "final"}
    low, high = min(ends, key=lambda name: ends[name]), max(ends, key=lambda name: ends[name])
    return Picture(
        "diversity",
        "Diversity of the branches. Test images on which two branches predict another class, mean over pairs and "
        "seeds: at transfer (open), and at the end (filled)."
        f"{_part(tables, {name for name, _ in means})}",
        f"At the end from {number(ends[low], 1)} % ({low}) to {number(ends[high], 1)} % ({high}).",
        "diversity.csv",
    )


def figures(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """The figures, by name."""
    made: dict[str, Callable[[], Figure]] = {"calibration": lambda: draw_calibration(tables)}
    return made if tables.diversity.empty else made | {"diversity": lambda: draw_diversity(tables)}


def draw_calibration(tables: Tables) -> Figure:
    """A row per experiment, ECE and the sign of the error."""
    gaps = excess(tables)
    rows = drawing.Rows(shown(tables, set(gaps)), ["ECE (%)", "overconfidence"])
    error, signed = rows.panels
    for (_, name), y in rows.y.items():
        error.plot(tables.average(name, "ensemble")["ece_mean"], y, marker="D", color=BLUE, clip_on=False)
        signed.plot(gaps[name], y, marker="o", color=ORANGE, mfc=PAPER, clip_on=False)
    error.set_xlim(left=0)
    signed.axvline(0, color=INK, linewidth=0.9, zorder=1)
    signed.margins(x=0.1)
    return rows.figure


def draw_diversity(tables: Tables) -> Figure:
    """A row per network of several branches."""
    means = _means(tables)
    rows = drawing.Rows(shown(tables, {name for name, _ in means}), ["disagreement (% of images)"])
    (axes,) = rows.panels
    for (_, name), y in rows.y.items():
        ends = [means[name, stage]["disagreement"] for stage in (START, "final") if (name, stage) in means]
        axes.plot(ends, [y] * len(ends), color=BLUE, linewidth=1.1)
        if (name, START) in means:
            axes.plot(means[name, START]["disagreement"], y, marker="o", color=ORANGE, mfc=PAPER, clip_on=False)
        if (name, "final") in means:
            axes.plot(means[name, "final"]["disagreement"], y, marker="D", color=BLUE, clip_on=False)
    axes.set_xlim(left=0)
    marks = [drawing.mark(ORANGE, "o", "at transfer", filled=False), drawing.mark(BLUE, "D", "at the end")]
    drawing.legend(rows.figure, marks)
    return rows.figure


def _table(tables: Tables) -> Table:
    measures = (("disagreement", "disagreement (%)", 2), ("kl", "KL (nats)", 3))
    kinds = (("", "two branches"), ("copy_", "copy and donor"))
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        *(
            Column(f"{kind}, {stage}", label)
            for _, label, _ in measures
            for _, kind in kinds
            for stage in ("at transfer", "end")
        ),
    ]
    test = tables.diversity[tables.diversity["split"] == "test"]
    rows: list[Row] = []
    first = []
    for name in (row["name"] for row in tables.ordered if row["name"] in set(test["experiment"])):
        own = test[test["experiment"] == name]
        first.append((name, len(rows)))
        line = [Cell(name, tone="code", link=cells.anchor(name)), cells.counted(tables, name, own["seed"].nunique())]
        for measure, _, places in measures:
            for prefix, _ in kinds:
                line += [
                    cells.over_seeds(own.loc[own["stage"] == stage, prefix + measure], places)
                    for stage in (START, "final")
                ]
        rows.append(Row(line))
    caption = (
        "How much branches differ: test images on which they predict another class, and Kullback–Leibler divergence of "
        "their probabilities, mean over all pairs, and over the pairs of a copied branch and its donor."
    )
    headings = cells.part_headings(tables, first)
    title = "Diversity of every network"
    return Table("diversity-table", caption, columns, rows, "diversity.csv", headings, title, where="appendix")
