"""Networks made of several trained ones, against their parents and the continued-training controls: `merges`.

One row per run, all on the test images. The ceiling of a merge is the plain mean of its parents' logits; its control
is the same mean of the continued-training controls. A row that was not trained is measured at transfer alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report import starts
from coopnet.report.lineage import Control, Lineage
from coopnet.report.runs import SCORES, Run, StudyInfo, digits, mean
from coopnet.report.tables.rows import Row, Tables, difference

ACCURACIES = ("top1", "top5")
VERSUS = (
    ("ensemble", "parents_ensemble"),
    ("ensemble", "parents_mean"),
    ("ensemble", "control_ensemble"),
    ("branch_mean", "parents_mean"),
    ("branch_mean", "control_mean"),
)
"""What is compared with what, in both accuracies: ensembles with ensembles, networks alone with branches alone."""


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Table `merges`."""
    merged = [run for run in runs if len(lineage.parents(run)) > 1 and not run.plain_ensemble]
    return {"merges": (_columns(merged), [_row(run, lineage) for run in merged])}


def _columns(runs: Iterable[Run]) -> list[str]:
    branches = max((run.branches for run in runs), default=0)
    return [
        *("experiment", "start", "method", "seed", "parents", "control", "images"),
        *(f"at_transfer_ensemble_{score}" for score in SCORES),
        *(f"at_transfer_branch{number}_top1" for number in range(1, branches + 1)),
        *(f"final_ensemble_{score}" for score in SCORES),
        *(f"final_branch_mean_{score}" for score in ACCURACIES),
        *(f"parents_mean_{score}" for score in ACCURACIES),
        *(f"parents_ensemble_{score}" for score in SCORES),
        *(f"control_ensemble_{score}" for score in ACCURACIES),
        *(f"control_mean_{score}" for score in ACCURACIES),
        *(f"{own}_over_{other}_{score}" for own, other in VERSUS for score in ACCURACIES),
    ]


def _row(run: Run, lineage: Lineage) -> Row:
    at_transfer = run.metrics["at_transfer"]["test"]
    control = lineage.control(run)
    row: Row = {
        "experiment": run.experiment,
        "start": run.start,
        "method": starts.words(run.row),
        "seed": run.seed,
        "parents": "; ".join(f"{parent.experiment} seed {parent.seed}" for parent in lineage.parents(run)),
        "control": control.name if control else None,
        "images": at_transfer["images"],
    }
    row |= _prefixed("at_transfer_ensemble", at_transfer["ensemble"], SCORES)
    row |= {f"at_transfer_branch{n}_top1": branch["top1"] for n, branch in enumerate(at_transfer["branches"], start=1)}
    row |= _parents(at_transfer["versus_parents"])
    if run.history:
        final = run.final("test")
        row |= _prefixed("final_ensemble", final["ensemble"], SCORES)
        row |= _prefixed("final_branch_mean", final["branch_mean"], ACCURACIES)
        row |= _control(control) if control else {}
    for own, other in VERSUS:
        for score in ACCURACIES:
            value, reference = row.get(f"final_{own}_{score}"), row.get(f"{other}_{score}")
            row[f"{own}_over_{other}_{score}"] = difference(value, reference)
    return row


def _prefixed(prefix: str, scores: Mapping[str, float], names: Iterable[str]) -> Row:
    return {f"{prefix}_{name}": scores[name] for name in names}


def _parents(versus: Mapping[str, Any]) -> Row:
    """The mean of the parents, each alone, and the plain mean of their logits."""
    singles = {score: digits(mean([single[score] for single in versus["singles"]])) for score in ACCURACIES}
    ensemble = _prefixed("parents_ensemble", versus["logit_ensemble"], SCORES)
    return _prefixed("parents_mean", singles, ACCURACIES) | ensemble


def _control(control: Control) -> Row:
    """The same of the continued-training controls."""
    finals = [single.final("test")["ensemble"] for single in control.singles]
    row = _prefixed("control_mean", {s: digits(mean([f[s] for f in finals])) for s in ACCURACIES}, ACCURACIES)
    if control.ensemble:
        row |= _prefixed("control_ensemble", control.ensemble.final("test")["ensemble"], ACCURACIES)
    return row
