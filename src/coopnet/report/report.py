"""Everything under `reports/<study>/`, made from a study's tables and its ledger of claims alone.

The same files give the same bytes, in any folder and any process. Wall-clock times are a page of their own.
"""

from pathlib import Path

from coopnet import files
from coopnet.report import content, drawing, frames, markdown, page, pdf
from coopnet.report.topics import method


def render(tables: Path, out: Path) -> None:
    """Write the page, the paper and its appendix, the Markdown, and the figures.

    That is `out/index.html`, `report.pdf`, `appendix.pdf`, `report.md`, `claims.md`, `figures/*.svg`, and
    `figures/overview.png`: the first figure, for pages that show no SVG.

    Args:
        tables: the folder that `tables.build` wrote.
        out: the report's folder, `reports/<study>`.

    Raises:
        CoopNetError: a table, or the ledger `claims.json` beside their folder, is missing or damaged.
    """
    loaded = frames.load(tables)
    report = content.compose(loaded)
    pictures = out / "figures"
    draws = content.drawings(loaded, report)
    for name, draw in draws.items():
        drawing.save(draw, pictures / f"{name}.svg")
    for old in pictures.glob("*.svg"):
        if old.stem not in draws:  # of an earlier report, with other experiments
            old.unlink()
    drawing.save(draws.get("overview", method.draw_network), pictures / "overview.png")
    files.write_text(out / "claims.md", markdown.ledger(loaded.claims))
    files.write_text(out / "report.md", markdown.report(report))
    files.write_text(out / "index.html", page.html(report, pictures))
    pdf.write(report, pictures, out)
