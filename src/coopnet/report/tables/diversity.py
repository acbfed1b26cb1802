"""How much the branches of a network differ: `diversity`, per run, stage and split.

Disagreement (% of images) and KL divergence (nats) are means over all pairs of branches. If branches began as
copies of others, `copy_*` are the means over the pairs of a copy and its donor alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo, digits, mean
from coopnet.report.tables.rows import Row, Tables

MEASURES = ("disagreement", "kl")
COLUMNS = ("experiment", "seed", "stage", "split", *MEASURES, *(f"copy_{measure}" for measure in MEASURES))


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Table `diversity`."""
    return {"diversity": (COLUMNS, [row for run in runs for row in _rows(run, lineage)])}


def _rows(run: Run, lineage: Lineage) -> Iterable[Row]:
    copies = _copies(run, lineage)
    for stage in ("at_transfer", "final"):
        for split in ("test", "validation"):
            block = (run.metrics.get(stage) or {}).get(split) or {}
            if "diversity" in block:
                head = {"experiment": run.experiment, "seed": run.seed, "stage": stage, "split": split}
                yield head | _measures(block["diversity"], copies)


def _measures(diversity: Mapping[str, Any], copies: Sequence[str]) -> Row:
    row: Row = {measure: diversity[measure] for measure in MEASURES}
    if copies:
        for measure in MEASURES:
            row[f"copy_{measure}"] = digits(mean([diversity["pairs"][pair][measure] for pair in copies]))
    return row


def _copies(run: Run, lineage: Lineage) -> list[str]:
    """Pairs `donor-copy` of a `split` start: the copies follow the parent's branches, in the order of their donors."""
    if run.start != "split":
        return []
    (parent,) = lineage.parents(run)
    numbers = range(parent.branches + 1, run.branches + 1)
    # Without a list of donors, the parent's branches are copied in turn (`transfer.default_donors`).
    donors = run.row["start"].get("donors") or [(number - 1) % parent.branches + 1 for number in numbers]
    return [f"{donor}-{number}" for donor, number in zip(donors, numbers, strict=True)]
