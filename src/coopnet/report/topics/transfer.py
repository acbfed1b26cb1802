"""Networks right after growth or expansion, before any training, beside the parent."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from coopnet.report import drawing
from coopnet.report.document import Cell, Column, Picture, Row, Section, Table
from coopnet.report.drawing import GREEN, INK, ORANGE, PAPER
from coopnet.report.frames import PARTS, Tables, records
from coopnet.report.topics import cells
from coopnet.report.wording import TIMES, count, listing, number, scientific, span


def section(tables: Tables) -> Section | None:
    """Grown networks beside their parent; networks of several parents have a separate section."""
    if tables.transfer.empty:
        return None
    rows = records(tables.transfer_mean)
    exact = sum(row["exact"] == "yes" for row in rows)
    kept = [row["experiment"] for row in rows if row["exact"] == "no" and row["changed_predictions"] == 0]
    one = len(kept) == 1
    sentences = [
        f"{exact} of {count(len(rows), 'network')} compute{'s' * (exact == 1)} exactly what the parent computes before "
        "any training."
        + (
            f" {listing(kept)} change{'s' * one} no prediction, but move{'s' * one} the logits and so calibration."
            if kept
            else ""
        )
    ]
    return Section("transfer", "Growth at transfer", sentences, [picture(tables), _table(tables)])


def picture(tables: Tables) -> Picture:
    """The figure's caption, and its finding in words."""
    rows = records(tables.transfer_mean)
    changed = [f"{row['experiment']} {number(row['changed_percent'], 1)} %" for row in rows if row["changed_percent"]]
    return Picture(
        "transfer",
        "Growth at transfer. Left, predictions on the test images that differ from the parent’s; right, how far the "
        "calibration error moved. Squares are exact starts.",
        f"Changed predictions: {listing(changed) + '; all others change none' if changed else 'none'}.",
        "transfer_mean.csv",
    )


def figures(tables: Tables) -> dict[str, Callable[[], Figure]]:
    """The figure, by name."""
    return {} if tables.transfer.empty else {"transfer": lambda: draw(tables)}


def draw(tables: Tables) -> Figure:
    """Two dot plots with a row per experiment."""
    means = {row["experiment"]: row for row in records(tables.transfer_mean)}
    names = {part: [row["name"] for row in rows if row["name"] in means] for part, rows in tables.parts.items()}
    groups = {PARTS.get(part, part) if len(tables.parts) > 1 else "": own for part, own in names.items() if own}
    rows = drawing.Rows(groups, ["changed (%)", "Δ ECE (points)"])
    changed, moved = rows.panels
    for (_, name), y in rows.y.items():
        row = means[name]
        exact = row["exact"] == "yes"
        colour, shape = (GREEN, "s") if exact else (ORANGE, "o")
        face = colour if exact else PAPER
        changed.plot(row["changed_percent"], y, marker=shape, color=colour, mfc=face, clip_on=False)
        moved.plot(row["ece"] - row["parent_ece"], y, marker=shape, color=colour, mfc=face, clip_on=False)
    moved.axvline(0, color=INK, linewidth=0.9, zorder=1)
    changed.set_xlim(0, max(1.0, changed.get_xlim()[1]))
    moved.margins(x=0.1)
    marks = [drawing.mark(GREEN, "s", "exact"), drawing.mark(ORANGE, "o", "not exact", filled=False)]
    drawing.legend(rows.figure, marks)
    return rows.figure


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("n"),
        *(Column(label, "against the parent") for label in ("exact", "changed (%)", "max |Δ logit|")),
        *(Column(label, "ensemble, Δ to the parent") for label in ("top-1 (%)", "NLL", "ECE (%)")),
    ]
    means = {row["experiment"]: row for row in records(tables.transfer_mean)}
    every = records(tables.transfer)
    rows: list[Row] = []
    first = []
    for row in (row for row in tables.ordered if row["name"] in means):
        first.append((row["name"], len(rows)))
        own = [seed for seed in every if seed["experiment"] == row["name"]]
        line = [cells.name(row), cells.counted(tables, row["name"], len(own)), *_cells(means[row["name"]])]
        more = cells.unfolded(
            ("changed", cells.seeds([seed["changed_predictions"] for seed in own], 0)),
            ("top-1", cells.seeds([seed["top1"] for seed in own])),
            ("ECE", cells.seeds([seed["ece"] for seed in own])),
        )
        rows.append(Row(line, more=more))
    images = span(int(n) for n in tables.transfer["images"])
    caption = (
        f"At transfer. Exact: max |Δ logit| is at most 10⁻⁶ {TIMES} max |logit| (the ratio stands below it) in every "
        f"seed. Changed: predictions that differ from the parent’s, of {images} test images. Means over n seeds."
    )
    headings = cells.part_headings(tables, first)
    return Table("transfer-table", caption, columns, rows, "transfer.csv", headings)


def _cells(line: Mapping[str, Any]) -> list[Cell]:
    changed = line["changed_predictions"]
    scores = [
        Cell(number(line[score], places), number(line[score] - line[f"parent_{score}"], places, sign=True))
        for score, places in (("top1", 2), ("nll", 3), ("ece", 2))
    ]
    return [
        Cell({"yes": "✓ yes", "no": "✗ no"}[line["exact"]], tone=line["exact"]),
        Cell(number(line["changed_percent"]), f"{number(changed, 0)} images"),
        Cell(scientific(line["largest_logit_difference"]), scientific(line["relative_difference"])),
        *scores,
    ]
