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
    files.write_text(out / "timing.html", html(study, read_table(tables / "timing.csv")))


def html(study: dict[str, Any], times: pd.DataFrame) -> str:
    """The page `timing.html`: wall-clock times of every run."""
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
    return page.fill("timing.html.j2", study=study, table=table, hours=number(seconds / 3600))
