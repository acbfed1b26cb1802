"""Networks right after growth, before any training."""

from collections.abc import Mapping
from typing import Any

from coopnet.report import starts
from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import Tables, records
from coopnet.report.sections import cells
from coopnet.report.wording import TIMES, between, count, listing, number, scientific, span


def brief(tables: Tables) -> list[str]:
    """Which starts are exact, and what the others change."""
    rows = records(tables.step0_mean)
    if not rows:
        return []
    exact = [row["experiment"] for row in rows if row["exact"] == "yes"]
    others = [row for row in rows if row["exact"] == "no"]
    named = f" ({listing(exact)})" if 0 < len(exact) <= cells.FEW else ""
    sentence = (
        f"Right after growth, {len(exact)} of {count(len(rows), 'network')} compute exactly what the parent "
        f"computes{named}."
    )
    if len(others) <= cells.FEW:
        return [" ".join([sentence, *(_change(row) for row in others)])]
    shifts = between([row["ece"] - row["parent_ece"] for row in others])
    changed = [row["changed_percent"] for row in others]
    return [
        f"{sentence} The others change {number(min(changed))} to {number(max(changed))} % of the predictions and move "
        f"ECE by {shifts} points."
    ]


def _change(row: Mapping[str, Any]) -> str:
    changed = row["changed_predictions"]
    return (
        f"{row['experiment']} changes {number(changed, 0 if float(changed).is_integer() else 1)} of "
        f"{row['images']:,} predictions and moves ECE by {number(row['ece'] - row['parent_ece'], sign=True)} points."
    )


def section(tables: Tables) -> Section | None:
    """The grown networks beside the one they grew from; networks of several parents have a section of their own."""
    if tables.step0.empty:
        return None
    picture = Picture(
        "step0",
        "Left, how many predictions of the test images differ from the parent's; right, how far calibration moved. "
        "A green square marks a start whose logits are the parent's.",
        "step0.csv",
    )
    sentence = (
        "Networks right after surgery, before any training, on the test images, beside the network they grew from."
    )
    return Section("step0", "Step 0: right after growth", [sentence], [_table(tables), picture])


def _table(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Seed"),
        *(Column(label, "against the parent") for label in ("exact", "changed", "max |Δ logit|")),
        *(Column(label, "ensemble (parent below)") for label in ("top-1 (%)", "top-5 (%)", "NLL", "ECE (%)")),
    ]
    rows: list[list[Cell]] = []
    means = {row["experiment"]: row for row in records(tables.step0_mean)}
    every = records(tables.step0)
    first = {}
    for experiment in (row for row in tables.ordered if row["name"] in means):
        name = experiment["name"]
        first[name] = len(rows)
        seeds = [seed for seed in every if seed["experiment"] == name]
        head = Cell(name, starts.words(experiment["row"]), "code")
        if len(seeds) > 1:
            rows.append([head, Cell("mean"), *_cells(means[name])])
            head = Cell("")
        for seed in seeds:
            rows.append([head, Cell(str(seed["seed"])), *_cells(seed)])
            head = Cell("")
    images = span(int(n) for n in tables.step0["images"])
    caption = (
        f"Exact: max |Δ logit| against the parent is at most 10⁻⁶ {TIMES} max |logit| (their ratio stands below it). "
        f"Changed: predictions, of {images} test images, that differ from the parent's."
    )
    rules, headings = list(first.values()), cells.part_headings(tables, first)
    return Table("step0-table", caption, columns, rows, "step0.csv", rules, headings)


def _cells(line: Mapping[str, Any]) -> list[Cell]:
    """Cells of one seed, or of the mean."""
    changed = line["changed_predictions"]
    places = 0 if float(changed).is_integer() else 1
    return [
        Cell({"yes": "✓ yes", "no": "✗ no"}[line["exact"]], tone=line["exact"]),
        Cell(number(changed, places), f"{number(line['changed_percent'])} %"),
        Cell(scientific(line["largest_logit_difference"]), scientific(line["relative_difference"])),
        *(
            Cell(number(line[score], places), f"({number(line[f'parent_{score}'], places)})")
            for score, places in (("top1", 2), ("top5", 2), ("nll", 3), ("ece", 2))
        ),
    ]
