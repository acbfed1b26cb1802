"""Whether networks are right as often as they are sure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from coopnet.report.document import Picture, Section
from coopnet.report.frames import PANELS, PARTS, Tables, records
from coopnet.report.wording import between, count

STARTS = 3
"""Panels kept for networks right after growth."""


class Panel(NamedTuple):
    """One reliability diagram: an experiment at the end (`final`) or right after surgery (`step0`), and its ECE (%)."""

    experiment: str
    stage: str
    ece: float


def panels(tables: Tables) -> list[Panel]:
    """The networks of the study's first part, and the starts by growth that move the parent's calibration most.

    Rows that begin as the same network, and differ in their training, are shown once.
    """
    names = [row["name"] for row in next(iter(tables.parts.values()))]
    starts_of: dict[tuple[float, ...], Mapping[str, Any]] = {}
    for row in records(tables.step0_mean):
        if row["exact"] == "no":
            starts_of.setdefault((row["ece"], row["nll"], row["changed_predictions"]), row)
    changed = sorted(starts_of.values(), key=lambda row: -abs(row["ece"] - row["parent_ece"]))
    starts = [Panel(row["experiment"], "step0", row["ece"]) for row in changed[: max(STARTS, PANELS - len(names))]]
    finals = [Panel(name, "final", tables.average(name, "ensemble")["ece_mean"]) for name in names]
    return finals[: PANELS - len(starts)] + starts


def excess(tables: Tables) -> list[float]:
    """Mean confidence minus accuracy (points) of every experiment's final ensemble."""
    final = tables.reliability[tables.reliability["stage"] == "final"]
    weighted = (final["confidence"] - final["accuracy"]) * final["images"]
    groups = final.assign(weighted=weighted).groupby("experiment", sort=False)
    return [float(value) for value in groups["weighted"].sum() / groups["images"].sum()]


def section(tables: Tables) -> Section:
    """The diagrams; the scores themselves stand in the table of branches."""
    gaps = excess(tables)
    sentences = [
        "A calibrated network is right as often as it is sure: of the images that it is 70 % sure of, 70 %. The "
        "expected calibration error (ECE) is the mean distance from that, over 15 bins of confidence; ECE and negative "
        "log-likelihood of every ensemble and branch are in the table of branches, under Accuracy.",
        f"At the end {sum(gap > 0 for gap in gaps)} of {count(len(gaps), 'ensemble')} are surer than right on the test "
        f"images; mean confidence minus accuracy is {between(gaps)} points.",
    ]
    stages = {panel.stage for panel in panels(tables)}
    caption = (
        "Accuracy against confidence of ensembles on the test images, a mark per bin (seeds pooled), larger where more "
        "images are; the dashed diagonal is perfect calibration, below it a network is surer than right. "
    )
    if len(tables.parts) > 1:
        part = next(iter(tables.parts))
        caption += f"Filled: final networks of {PARTS.get(part, part)}. "
    if "step0" in stages:
        caption += "Open: networks right after growth, those whose ECE growth moved most. "
    caption += "The title has the ECE" + (", the mean over seeds." if tables.replicated else ".")
    return Section("calibration", "Calibration", sentences, [Picture("reliability", caption, "reliability.csv")])
