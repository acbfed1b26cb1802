"""Everything under `reports/<study>/`, made from a study's tables alone.

The same tables give the same bytes, in any folder and any process. Wall-clock times are a page of their own.
"""

from functools import partial
from pathlib import Path

from coopnet import files
from coopnet.reporting import content, dag, figures, frames, page, pdf
from coopnet.reporting.frames import Tables


def render(tables: Path, out: Path) -> None:
    """Write `out/index.html`, `out/report.pdf`, `out/figures/*.svg` and `out/figures/overview.png`.

    Args:
        tables: the folder that `tables.build` wrote.
        out: the report's folder, `reports/<study>`.

    Raises:
        CoopNetError: a table is missing or damaged.
    """
    loaded = frames.load(tables)
    pictures = out / "figures"
    draws = drawings(loaded)
    for name, draw in draws.items():
        figures.save(draw, pictures / f"{name}.svg")
    for old in pictures.glob("*.svg"):
        if old.stem not in draws:  # of an earlier report, with other experiments
            old.unlink()
    figures.save(lambda: figures.overview(loaded.runs, loaded.names), pictures / "overview.png")
    report = content.compose(loaded)
    files.write_text(out / "index.html", page.html(report, pictures))
    pdf.write(report, pictures, out / "report.pdf")


def render_timing(tables: Path, out: Path) -> None:
    """Write `out/timing.html`, the only page whose content differs from one machine, or one day, to the next."""
    study = files.read_json(tables / "study.json")
    files.write_text(out / "timing.html", page.timing(study, frames.read_table(tables / "timing.csv")))


def drawings(tables: Tables) -> dict[str, figures.Draw]:
    """Each figure of the report by name, not yet drawn."""
    test = tables.history[tables.history["split"] == "test"]
    grown = tables.step0[tables.step0["exact"].notna()]
    draws: dict[str, figures.Draw] = {
        "overview": lambda: figures.overview(tables.runs, tables.names),
        "dag": lambda: dag.draw(tables.experiments),
    }
    for name, order in tables.panels.items():
        draws[name] = partial(figures.curves, test, order, _parent_lines(tables))
    if len(grown):
        draws["step0"] = lambda: figures.step0(grown, list(dict.fromkeys(grown["experiment"])))
    return draws


def _parent_lines(tables: Tables) -> dict[str, float]:
    """Mean final ensemble top-1 of the parent, for experiments that descend from one row of this study."""
    ensemble = tables.final("ensemble")
    return {
        row["name"]: ensemble[row["parents"][0]]
        for row in tables.experiments
        if len(set(row["parents"])) == 1 and row["parents"][0] in ensemble
    }
