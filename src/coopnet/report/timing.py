"""The page of wall-clock times, apart from the report and without the libraries that draw it."""

from pathlib import Path
from typing import Any

import pandas as pd

from coopnet import files
from coopnet.report import page
from coopnet.report.document import Cell, Column, Row, Table
from coopnet.report.frames import read_table, records
from coopnet.report.wording import number


def render(tables: Path, out: Path) -> None:
    """Write `out/timing.html`, the only page whose content differs from one machine, or one day, to the next.

    Args:
        tables: the folder that `tables.build` wrote.
        out: the report's folder, `reports/<study>`.

    Raises:
        CoopNetError: a table is missing or damaged.
    """
    study = files.read_json(tables / "study.json")
    measured = tables / "latency.csv"
    latency = _of_this_study(read_table(measured, study["name"]), tables, study["name"]) if measured.is_file() else None
    files.write_text(out / "timing.html", html(study, read_table(tables / "timing.csv", study["name"]), latency))


def _of_this_study(latency: pd.DataFrame, tables: Path, name: str) -> pd.DataFrame | None:
    """The latencies of networks that are still as they were measured; None if there are none."""
    if "parameters" not in latency:
        return None
    now = read_table(tables / "compute.csv", name).set_index("experiment")["parameters"]
    kept = latency[latency["experiment"].map(now) == latency["parameters"]]
    return None if kept.empty else kept


def html(study: dict[str, Any], times: pd.DataFrame, latency: pd.DataFrame | None = None) -> str:
    """The page `timing.html`: wall-clock times of every run, and latencies if they were measured."""
    columns = [
        Column("Experiment", numeric=False),
        Column("Seed"),
        Column("Epochs"),
        Column("Training (s)"),
        Column("Evaluation (s)"),
        Column("Images/s"),
    ]
    rows = [
        Row(
            [
                Cell(row["experiment"], tone="code"),
                Cell(str(row["seed"])),
                Cell(str(row["epochs"])),
                Cell(number(row["train_seconds"], 1)),
                Cell(number(row["evaluation_seconds"], 1)),
                Cell(number(row["images_per_second"], 0)),
            ]
        )
        for row in records(times)
    ]
    caption = "Timing. Seconds of wall-clock time per run, and training images per second, averaged over the run."
    table = Table("timing-table", caption, columns, rows, "timing.csv")
    seconds = sum(row["train_seconds"] + row["evaluation_seconds"] for row in records(times))
    tables = [table] if latency is None else [table, _latency(latency)]
    return page.fill("timing.html.j2", study=study, tables=tables, hours=number(seconds / 3600))


def _latency(measured: pd.DataFrame) -> Table:
    """Time per batch of each network."""
    batches = [str(column) for column in measured if str(column).startswith("batch_")]
    labels = [f"batch of {column.split('_')[1]}" for column in batches]
    columns = [
        Column("Experiment", numeric=False),
        *(Column(label, "milliseconds") for label in labels),
        Column("images a second"),
    ]
    largest = batches[-1]
    size = int(largest.split("_")[1])
    rows = [
        Row(
            [
                Cell(row["experiment"], tone="code"),
                *(Cell(number(row[column])) for column in batches),
                Cell(number(1000 * size / row[largest], 0)),
            ]
        )
        for row in records(measured)
    ]
    machine = "; ".join(dict.fromkeys(measured["machine"]))
    caption = (
        f"Latency of each network on {machine}. The whole ensemble, median of repeated calls with random weights; "
        f"images a second are those of the {labels[-1]}. Accuracy and operations are in the report, under cost."
    )
    return Table("latency-table", caption, columns, rows, "latency.csv")
