"""The report as a PDF, typeset by typst from the same content and the same figures."""

import json
import shutil
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import typst

from coopnet import files
from coopnet.report.document import Report


def write(report: Report, figures: Path, path: Path) -> None:
    """Write the PDF atomically.

    The content goes to typst as JSON, so nothing in it is ever read as markup. Only typst's own fonts are used, and
    the document has no date: the bytes depend on the content alone.

    Args:
        report: what to typeset.
        figures: folder with `<name>.svg` of every picture of the report.
        path: the PDF.
    """
    with files.replacing(path) as temporary, tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "report.json").write_text(json.dumps(asdict(report), ensure_ascii=False), encoding="utf-8")
        template = resources.files("coopnet.report").joinpath("templates/report.typ")
        (root / "report.typ").write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
        for figure in sorted(figures.glob("*.svg")):
            shutil.copyfile(figure, root / figure.name)
        temporary.write_bytes(typst.compile(root / "report.typ", root=root, ignore_system_fonts=True, font_paths=[]))
