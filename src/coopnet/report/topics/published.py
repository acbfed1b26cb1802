"""Published figures beside this study’s, and the differences between the two measurements."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import DATASETS, Tables, records
from coopnet.report.published import CERTAINTIES, UNSAID
from coopnet.report.wording import count, listing, number, spread

SCORES = {"top1": "top-1", "top5": "top-5"}
NAMES = {
    "network": "network",
    "epochs": "epochs",
    "training_images": "training images",
    "runs": "runs",
}
"""Display names of the parts of a protocol."""
EPOCHS = {
    "last": "last epoch",
    "best": "best epoch",
    "best on test": "best epoch, selected on test",
    "best on validation": "best epoch, selected on validation",
}
STATES = ("not run", "failed", "not measured", "no row")
"""Reasons why a figure has no number of ours beside it."""
SCALE = ("network", "epochs", "training_images")
"""The parts of a protocol that make a study smaller or larger than another."""


def section(tables: Tables) -> Section | None:
    """One table of all figures, source by source.

    Where no network of this study was trained as long as the published ones, a difference would say nothing: the table
    is folded, and has none.
    """
    rows = records(tables.published)
    if not rows:
        return None
    alike = any(_as_long(row) for row in rows)
    if alike:
        sentences = [_coverage(rows), *_scale(rows), *_gains(rows), *_remarks(rows)]
    else:
        sentences = [
            f"{count(len(rows), 'published figure')} {'is' if len(rows) == 1 else 'are'} in the appendix, beside this "
            "study’s if it measures the same. "
            "No network here was trained for the published number of epochs, so no difference is shown.",
            *_gains(rows),
        ]
    return Section("published", "Published figures", sentences, [_table(rows, alike)])


def _as_long(row: Mapping[str, Any]) -> bool:
    return bool(row["state"] == "measured" and row["epochs_ours"] == row["epochs_theirs"])


def _coverage(rows: Sequence[Mapping[str, Any]]) -> str:
    """The number of figures that this study measures too, and the reasons for the others."""
    compared = [row for row in rows if not pd.isna(row["ours_minus_theirs"])]
    missing = {state: sum(row["state"] == state for row in rows) for state in STATES}
    elsewhere = sum(not pd.isna(row["ours"]) for row in rows) - len(compared)
    reasons = [f"{missing['not run']} whose experiment was not run"] if missing["not run"] else []
    reasons += [f"{missing['failed']} whose experiment failed here"] if missing["failed"] else []
    reasons += (
        [f"{missing['not measured']} on a split that this study does not have"] if missing["not measured"] else []
    )
    reasons += [f"{missing['no row']} that no experiment measures"] if missing["no row"] else []
    reasons += [f"{elsewhere} on other data"] if elsewhere else []
    others = f"; the others: {listing(reasons)}" if reasons else ""
    return f"Of {count(len(rows), 'published figure')}, {len(compared)} can be set against this study’s{others}."


def _scale(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A remark if the measurements differ in scale, so that a difference is no judgement; else nothing."""
    differs = [_listed(row["differs"]) for row in rows if not pd.isna(row["ours_minus_theirs"])]
    unlike = [parts for parts in differs if set(parts) & set(SCALE)]
    if not unlike:
        return []
    counts = {NAMES[name]: sum(name in parts for parts in unlike) for name in SCALE}
    why = ", ".join(f"{name} in {times}" for name, times in counts.items() if times)
    which = "In all of these" if len(unlike) == len(differs) else f"In {len(unlike)} of these"
    return [
        f"{which} the scale is different ({why}): there the difference reflects the scales and judges neither side."
    ]


def _gains(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Published figures compared with each other, if a gain is claimed for them."""
    return [
        f"Published {_score(row)} of “{row['about']}” is {number(row['theirs'])} % against {number(row['over_value'])} "
        f"% of “{row['over']}”, in the mean of the published runs: {number(row['gain'], sign=True)} points, where "
        f"{row['claimed']:+g} is claimed ({row['work']})."
        for row in rows
        if not pd.isna(row["gain"])
    ]


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    remarks = {row["work"]: row["remark"] for row in rows if not pd.isna(row["remark"])}
    return [f"{work}: {remark}" for work, remark in remarks.items()]


def _table(rows: Sequence[Mapping[str, Any]], alike: bool) -> Table:
    columns = [
        Column("Published figure", numeric=False, wide=True),
        Column("theirs", "accuracy (%)"),
        Column("ours", "accuracy (%)"),
        *([Column("difference", "points")] if alike else []),
        Column("Here, and not there", numeric=False, wide=True),
        Column("How sure", numeric=False),
    ]
    headings: dict[int, str] = {}
    for place, row in enumerate(rows):
        title = row["work"] if row["kind"] == UNSAID else f"{row['work']}: {row['kind']}"
        if title not in headings.values():
            headings[place] = title
    known = {row["certainty"] for row in rows}
    words = "; ".join(f"{name}: {words}" for name, words in CERTAINTIES.items() if name in known)
    caption = (
        "Published figures. Errors are turned into accuracies; ± is what was published, or the standard deviation of "
        "the runs that are listed, and of ours over n seeds. “Best epoch, selected on test” is optimistic. How sure we "
        f"are of the source: {words}."
    )
    if not alike:  # the section's text has them otherwise
        caption = " ".join([caption, *_remarks(rows)])
    cells = [Row(_row(row, alike)) for row in rows]
    title, where = ("", "all") if alike else ("Published figures, side by side", "appendix")
    return Table("published-table", caption, columns, cells, "published.csv", headings, title, where=where)


def _row(row: Mapping[str, Any], alike: bool) -> list[Cell]:
    return [
        Cell(row["about"], _what(row)),
        Cell(spread(row["theirs"], row["theirs_spread"]), _circumstances(row, "theirs")),
        _ours(row),
        *([Cell(number(row["ours_minus_theirs"], sign=True))] if alike else []),
        _differences(row),
        Cell(row["certainty"]),
    ]


def _what(row: Mapping[str, Any]) -> str:
    """Network and data as published, and the row that measures the same."""
    data, network = row["dataset_theirs"], row["network_theirs"]
    data = _own("dataset", data) if isinstance(data, str) else f"data {UNSAID}"
    network = network if isinstance(network, str) else f"network {UNSAID}"
    words = f"{data}, {network}, {_score(row)}"
    if isinstance(row["experiment"], str):
        words += f"; ours: {row['experiment']}, {_model(row['model'])}"
    return f"{words}; {row['note']}" if isinstance(row["note"], str) else words


def _model(name: Any) -> str:
    if not isinstance(name, str):
        return f"of what is {UNSAID}"
    known = {"branch_mean": "mean of branches", "mean_probabilities": "mean of probabilities"}
    return known.get(name, name.replace("branch", "branch "))


def _score(row: Mapping[str, Any]) -> str:
    return f"{row['split']} {SCORES[row['metric']]}"


def _circumstances(row: Mapping[str, Any], side: str) -> str:
    """The number of runs, and how the reported epoch was selected, unless it is the last."""
    runs, epoch = row[f"runs_{side}"], row[f"epoch_{side}"]
    words = [f"n = {runs}"] if isinstance(runs, str) else []
    words += [_own("epoch", epoch) if isinstance(epoch, str) else f"epoch {UNSAID}"] if epoch != "last" else []
    return ", ".join(words)


def _ours(row: Mapping[str, Any]) -> Cell:
    if row["state"] != "measured":
        return Cell(row["state"])
    return Cell(spread(row["ours"], row["ours_std"]), _circumstances(row, "ours"))


def _differences(row: Mapping[str, Any]) -> Cell:
    """The differences, ours first; below them the unknown parts of their protocol, but the epoch: it has its cell."""
    if row["state"] != "measured":
        return Cell("–")
    differs = [_difference(name, row[f"{name}_ours"], row[f"{name}_theirs"]) for name in _listed(row["differs"])]
    unsaid = [_own(name, row[f"{name}_ours"]) for name in _listed(row["unsaid"]) if name != "epoch"]
    words = "; ".join(differs) or ("no known difference" if _listed(row["unsaid"]) else "no difference")
    return Cell(words, f"{', '.join(unsaid)}: {UNSAID} there" if unsaid else "")


def _difference(name: str, ours: str, theirs: str) -> str:
    other = f"{int(theirs):,}" if theirs.isdigit() else _own(name, theirs)
    return f"{_own(name, ours)}, not {other}"


def _own(name: str, value: str) -> str:
    """A part of a protocol in words: `ResNet-8`, `10 epochs`, `last epoch`."""
    if name in ("epochs", "training_images", "runs"):
        noun = NAMES[name].removesuffix("s")
        return count(int(value), noun) if value.isdigit() else f"{value} {noun}s"
    return {"dataset": DATASETS, "epoch": EPOCHS}.get(name, {}).get(value, value)


def _listed(words: Any) -> list[str]:
    return words.split("; ") if isinstance(words, str) else []
