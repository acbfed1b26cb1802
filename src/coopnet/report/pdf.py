"""The report as a paper and an appendix with the tables in full, typeset by typst from the same content and figures."""

import json
import shutil
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import typst

from coopnet import files
from coopnet.report.document import Report, Table
from coopnet.report.drawing import FONTS


def write(report: Report, figures: Path, out: Path) -> None:
    """Write `out/report.pdf` and `out/appendix.pdf` atomically.

    The content goes to typst as JSON, so nothing in it is ever read as markup. Only typst's own fonts and matplotlib's
    are used, and the documents have no date: the bytes depend on the content alone.

    Args:
        report: the report to typeset.
        figures: folder with `<name>.svg` of every picture of the report.
        out: the report's folder.
    """
    template = resources.files("coopnet.report").joinpath("templates/report.typ").read_text(encoding="utf-8")
    for name, content in (("report", paper(report)), ("appendix", appendix(report))):
        with files.replacing(out / f"{name}.pdf") as temporary, tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "report.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            (root / "report.typ").write_text(template, encoding="utf-8")
            for figure in sorted(figures.glob("*.svg")):
                shutil.copyfile(figure, root / figure.name)
            made = typst.compile(
                root / "report.typ", root=root, ignore_system_fonts=True, font_paths=[FONTS], pdf_tags=name == "report"
            )
            temporary.write_bytes(made)


def paper(report: Report) -> dict[str, Any]:
    """The content of the paper: everything except the tables for looking things up."""

    def kept(item: Any) -> bool:
        return item.kind == "figure" or item.where in ("all", "paper")

    content = asdict(report) | {"appendix": False}
    for section, written in zip(report.sections, content["sections"], strict=True):
        written["items"] = [asdict(item) for item in section.items if kept(item)]
    return _linked(content)


def appendix(report: Report) -> dict[str, Any]:
    """The content of the appendix: the tables that are not in the paper, and all tables with details, unfolded."""
    sections = []
    for section in report.sections:
        tables = [
            item
            for item in section.items
            if isinstance(item, Table)
            and (item.where == "appendix" or (item.where == "all" and any(row.more for row in item.rows)))
        ]
        if tables:
            items = [_unfolded(asdict(table)) for table in tables]
            sections.append(asdict(section) | {"items": items, "sentences": [], "terms": []})
    return _linked(asdict(report) | {"appendix": True, "sections": sections})


def _unfolded(table: dict[str, Any]) -> dict[str, Any]:
    for row in table["rows"]:
        row["below"] = "; ".join(f"{name}: {text}" if name else text for name, text in row["more"])
    return table


def _linked(content: dict[str, Any]) -> dict[str, Any]:
    """The content without links to missing targets, and with every id once."""
    ids: set[str] = {section["id"] for section in content["sections"]}
    rows = [row for section in content["sections"] for item in section["items"] for row in item.get("rows", ())]
    for row in rows:
        row["id"] = "" if row["id"] in ids else row["id"]
        ids.add(row["id"])
    for cell in (cell for row in rows for cell in row["cells"]):
        _cut(cell, ids)
    for answer in content["answers"]:
        answer["link"] = answer["link"] if answer["link"] in ids else ""
    return content


def _cut(cell: dict[str, Any], ids: set[str]) -> None:
    cell["link"] = cell["link"] if cell["link"] in ids else ""
    cell["links"] = [[text, target if target in ids else ""] for text, target in cell["links"]]
