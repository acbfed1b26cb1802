"""Grown networks after fine-tuning: child, parent, control."""

import math
from collections.abc import Mapping
from typing import Any

from coopnet.report.differences import of_ensembles
from coopnet.report.document import Column, Row, Section, Table
from coopnet.report.frames import Tables, records
from coopnet.report.runs import mean
from coopnet.report.topics import cells, curves
from coopnet.report.topics.cells import Cell
from coopnet.report.wording import between, count, listing, number, spans, spread

FRESH = ("zero_pad", "zero_output", "masked")
"""The ways to grow whose new branches begin untrained."""
BEHIND = 1.0
"""Least difference of the branches’ top-1, in points, that is worth a sentence."""


def section(tables: Tables) -> Section | None:
    """Children of one parent with several branches; expansions are in the section on merging."""
    rows = grown(tables)
    if not rows:
        return None
    return Section("growth", "Growth after fine-tuning", [_sentence(tables, rows)], [
        table(tables, rows, "growth-table", "After fine-tuning."),
        *curves.pictures(tables, "curves_growth"),
    ])  # fmt: skip


def grown(tables: Tables, *, several: bool = True) -> list[dict[str, Any]]:
    """Rows with one parent that has several branches, or one."""
    branches = {row["name"]: row["branches"] for row in tables.experiments}
    parents = {row["experiment"]: row["parent"] for row in records(tables.growth_mean)}
    return [
        row
        for row in tables.ordered
        if row["name"] in parents and row["epochs"] and (branches[parents[row["name"]]] > 1) == several
    ]


def _sentence(tables: Tables, rows: list[dict[str, Any]]) -> str:
    against = [one for name, one in of_ensembles(tables).items() if name in {row["name"] for row in rows}]
    controls = [row["name"] for row in rows if row["start"] == "continue"]
    if not against:
        return "This study has no control, so a gain over the parent may come from training longer."
    named = f" ({listing(controls)})" if len(controls) <= cells.FEW else ""
    above = sum(one.estimate > 0 for one in against)
    verb = "is" if above < 2 else "are"
    return (
        f"Each network is compared with its parent and with its continued-training control{named}, seed by seed. "
        f"Of {count(len(against), 'network')} with a control, {above or 'none'} {verb} above it; the "
        f"differences are {between([one.estimate for one in against])} points of top-1."
    )


def behind(tables: Tables) -> list[str]:
    """How far new branches that began untrained are behind the old ones after fine-tuning; empty if none is."""
    rows = {row["name"]: row for row in tables.experiments}
    gaps: dict[str, float] = {}
    for row in grown(tables):
        if row["start"] in FRESH:
            own = [tables.final(f"branch{place + 1}")[row["name"]] for place in range(row["branches"])]
            before = rows[row["parents"][0]]["branches"]
            gap = mean(own[:before]) - mean(own[before:])
            gaps |= {row["name"]: gap} if gap >= BEHIND else {}
    if not gaps:
        return []
    size = " to ".join(dict.fromkeys(number(of(gaps.values()), 1) for of in (min, max)))
    ways = listing(dict.fromkeys(rows[name]["start"] for name in gaps))
    return [
        f"The new branches of {ways} begin untrained. After {spans((rows[name]['epochs'] for name in gaps), 'epoch')} "
        f"of fine-tuning they are {size} points of top-1 behind the old ones, so longer fine-tuning may change how "
        "these networks compare."
    ]


def table(tables: Tables, rows: list[dict[str, Any]], name: str, title: str) -> Table:
    """Child, parent and control, of the ensemble and of the mean of branches."""
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        Column("child", "ensemble, top-1"),
        Column("minus parent", "ensemble, top-1"),
        Column("minus control, [95\u00a0%]", "ensemble, top-1"),
        Column("minus parent", "mean of branches"),
        Column("minus control", "mean of branches"),
        Column("minus control", "top-5"),
    ]
    means = {(row["experiment"], row["model"], row["metric"]): row for row in records(tables.growth_mean)}
    seeds: dict[str, list[Mapping[str, Any]]] = {}
    for pair in records(tables.growth):
        if (pair["model"], pair["metric"]) == ("ensemble", "top1"):
            seeds.setdefault(pair["experiment"], []).append(pair)
    against = of_ensembles(tables)
    lines = []
    for row in rows:
        own, branch = (means[row["name"], model, "top1"] for model in ("ensemble", "branch_mean"))
        line = [
            Cell(row["name"], f"from {own['parent']}", "code", cells.anchor(row["name"])),
            cells.counted(tables, row["name"], own["n"]),
            Cell(spread(own["child_mean"], own["child_std"])),
            _difference(own, "over_parent"),
            cells.to_control(against.get(row["name"])),
            _difference(branch, "over_parent"),
            _difference(branch, "over_control"),
            _difference(means[row["name"], "ensemble", "top5"], "over_control"),
        ]
        pairs = seeds[row["name"]]
        more = cells.unfolded(
            ("start", cells.name(row).detail),
            ("control", own["control"] if isinstance(own["control"], str) else ""),
            ("minus parent", cells.seeds([pair["over_parent"] for pair in pairs], sign=True)),
            ("minus control", cells.seeds([pair["over_control"] for pair in pairs], sign=True)),
        )
        lines.append(Row(line, more=more))
    caption = (
        f"{title} Final test accuracy (%) of each child, and how far it is above (+) or below (−) parent and control, "
        "in points: mean ± standard deviation of the paired differences."
    )
    return Table(name, caption, columns, lines, "growth.csv")


def _difference(line: Mapping[str, Any], versus: str) -> Cell:
    value = line[f"{versus}_mean"]
    return Cell(spread(value, line[f"{versus}_std"], sign=True), value=None if math.isnan(value) else value)
