"""Networks at transfer beside their parent: `transfer` per seed, `transfer_mean` over seeds.

Networks of several parents are in `merges`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.evaluation.metrics import EXACT
from coopnet.report.lineage import Lineage
from coopnet.report.runs import SCORES, Run, StudyInfo, digits, mean
from coopnet.report.tables.rows import Row, Tables, groups

PARENT_SCORES = tuple(f"parent_{score}" for score in SCORES)
LOGITS = (
    "changed_predictions",
    "changed_percent",
    "largest_logit_difference",
    "largest_logit",
    "relative_difference",
)
SCALES = (*LOGITS, "exact", *SCORES, *PARENT_SCORES)


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `transfer` and `transfer_mean`."""
    rows = list(_rows(runs))
    return {
        "transfer": (("experiment", "start", "seed", "images", *SCALES), rows),
        "transfer_mean": (("experiment", "start", "n", "images", *SCALES), list(_means(rows))),
    }


def _rows(runs: Sequence[Run]) -> Iterable[Row]:
    """One row per run that began with a transfer from one parent: test scores of its ensemble and its parent's."""
    for run in runs:
        block = (run.metrics.get("at_transfer") or {}).get("test", {})
        if run.transferred and block.get("versus_parent"):
            yield {
                "experiment": run.experiment,
                "start": run.start,
                "seed": run.seed,
                "images": block["images"],
                **{key: block["ensemble"][key] for key in SCORES},
                **_versus_parent(block["versus_parent"], block["images"]),
            }


def _versus_parent(versus: Mapping[str, Any], images: int) -> Row:
    """How far the logits are from the parent's."""
    difference, largest = versus["largest_logit_difference"], versus["largest_logit"]
    return {
        "changed_predictions": versus["changed_predictions"],
        "changed_percent": digits(100 * versus["changed_predictions"] / images),
        "largest_logit_difference": difference,
        "largest_logit": largest,
        "relative_difference": digits(difference / largest) if largest else None,
        "exact": "yes" if difference <= EXACT * largest else "no",
        **{f"parent_{key}": versus["parent"][key] for key in SCORES},
    }


def _means(rows: Sequence[Row]) -> Iterable[Row]:
    """Means over seeds; `exact` only if every seed is."""
    for group, members in groups(rows, ("experiment", "start")):
        row = group | {"n": len(members), "images": members[0]["images"]}
        for column in (*LOGITS, *SCORES, *PARENT_SCORES):
            values = [member[column] for member in members if member[column] is not None]
            row[column] = digits(mean(values)) if values else None
        row["exact"] = "yes" if all(member["exact"] == "yes" for member in members) else "no"
        yield row
