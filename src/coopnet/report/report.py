"""Everything under `reports/<study>/`, made from a study's tables and its ledger of claims alone.

The same files give the same bytes, in any folder and any process. Wall-clock times are a page of their own.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from coopnet import files
from coopnet.report import content, frames, page, pdf
from coopnet.report.figures import (
    claims,
    compute,
    curves,
    dag,
    drawing,
    factors,
    merges,
    overview,
    reliability,
    step0,
    votes,
)
from coopnet.report.frames import Tables
from coopnet.report.sections import calibration, voting
from coopnet.report.sections import claims as claims_section
from coopnet.report.sections.compute import points


def render(tables: Path, out: Path) -> None:
    """Write `out/index.html`, `out/report.pdf`, `out/figures/*.svg` and `out/figures/overview.png`.

    Args:
        tables: the folder that `tables.build` wrote.
        out: the report's folder, `reports/<study>`.

    Raises:
        CoopNetError: a table, or the ledger `claims.json` beside their folder, is missing or damaged.
    """
    loaded = frames.load(tables)
    pictures = out / "figures"
    draws = drawings(loaded)
    for name, draw in draws.items():
        drawing.save(draw, pictures / f"{name}.svg")
    for old in pictures.glob("*.svg"):
        if old.stem not in draws:  # of an earlier report, with other experiments
            old.unlink()
    drawing.save(draws["overview"], pictures / "overview.png")
    report = content.compose(loaded)
    files.write_text(out / "claims.md", claims_section.markdown(loaded.claims))
    files.write_text(out / "index.html", page.html(report, pictures))
    pdf.write(report, pictures, out / "report.pdf")


def drawings(tables: Tables) -> dict[str, drawing.Draw]:
    """Each figure of the report by name, not yet drawn."""
    draws: dict[str, drawing.Draw] = {}
    for part, name in tables.by_part("overview").items():
        names = [row["name"] for row in tables.parts[part]]
        draws[name] = partial(overview.draw, tables.runs, tables.by_data(names))
    for part, name in tables.by_part("dag").items():
        draws[name] = partial(dag.draw, tables.experiments, part, steps=name == "dag")
    history = tables.history[tables.history["split"].isin(["train", "test"])]
    for name, panels in tables.panels.items():
        draws[name] = partial(curves.draw, history, panels.names, _parent_lines(tables))
    if not tables.step0.empty:
        draws["step0"] = partial(step0.draw, tables.step0, _present(tables, tables.step0))
    if not tables.merges.empty:
        panels_of = tables.by_data(_present(tables, tables.merges))
        draws["merges"] = partial(merges.draw, tables.merges, panels_of)
    if not tables.votes.empty:
        draws["votes"] = partial(votes.draw, voting.marks(tables), tables.votes_best, voting.experiments(tables))
    if not tables.factors.empty:
        draws["factors"] = partial(factors.draw, tables.factors, _present(tables, tables.factors))
    draws["reliability"] = partial(reliability.draw, tables.reliability, calibration.panels(tables))
    costs = points(tables)
    if not costs.empty:
        draws["compute"] = partial(compute.draw, costs, tables.by_dataset(costs["experiment"]))
    for name, shown in claims.pages(tables.claims).items():
        draws[name] = partial(claims.draw, shown, claims.reach(tables.claims))
    return draws


def _present(tables: Tables, frame: pd.DataFrame) -> list[str]:
    """Names of the experiments in a table, in the report's order."""
    names = set(frame["experiment"])
    return [row["name"] for row in tables.ordered if row["name"] in names]


def _parent_lines(tables: Tables) -> dict[str, float]:
    """Mean final ensemble top-1 of the parent, for experiments that start from one."""
    ensemble = tables.final("ensemble")
    return {
        row["name"]: ensemble[row["parents"][0]]
        for row in tables.experiments
        if row["start"] != "random" and len(row["parents"]) == 1
    }
