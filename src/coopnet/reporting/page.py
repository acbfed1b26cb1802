"""The web page of a report: one file with style and figures inside, which loads nothing from anywhere."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from coopnet.reporting.document import Cell, Column, Report, Table
from coopnet.reporting.frames import records
from coopnet.reporting.wording import number

TEMPLATES = "coopnet.reporting"


def html(report: Report, figures: Path) -> str:
    """The page `index.html`, with the SVG files of `figures` inline."""

    def svg(name: str) -> Markup:
        return inline((figures / f"{name}.svg").read_text(encoding="utf-8"), name)

    return _environment().get_template("index.html.j2").render(report=report, svg=svg, style=_style())


def timing(study: dict[str, Any], times: pd.DataFrame) -> str:
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
        [
            Cell(row["experiment"], tone="code"),
            Cell(str(row["seed"])),
            Cell(str(row["epochs"])),
            Cell(number(row["train_seconds"], 1)),
            Cell(number(row["evaluation_seconds"], 1)),
            Cell(number(row["images_per_second"], 0)),
        ]
        for row in records(times)
    ]
    caption = "Seconds of wall-clock time per run, and training images per second, averaged over the run."
    table = Table("timing-table", caption, columns, rows, "timing.csv")
    seconds = sum(row["train_seconds"] + row["evaluation_seconds"] for row in records(times))
    template = _environment().get_template("timing.html.j2")
    return template.render(study=study, table=table, hours=number(seconds / 3600), style=_style())


def inline(svg: str, name: str) -> Markup:
    """An SVG file as an element of a page: without prolog and metadata, its ids prefixed so that figures share none."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    # Sized by the page, to the width of its column; the view box keeps the proportions.
    opening, rest = svg.split(">", 1)
    width = re.search(r'\bwidth="([\d.]+)pt"', opening)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    limit = f' style="max-width: {float(width.group(1)) * 1.55:.0f}px"' if width else ""
    return Markup(f'{opening} aria-hidden="true"{limit}>{rest}')


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(TEMPLATES, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _style() -> Markup:
    text = resources.files(TEMPLATES).joinpath("style.css").read_text(encoding="utf-8")
    return Markup(text)
