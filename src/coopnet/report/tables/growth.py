"""A network of one parent against that parent, and its continued-training control: `growth` and `growth_mean`."""

from collections.abc import Iterable, Sequence

from coopnet.report.lineage import Lineage
from coopnet.report.runs import SCORES, Run, StudyInfo
from coopnet.report.tables.rows import Row, Tables, averaged, difference

LINEAGE = ("experiment", "start", "parent", "control", "model", "metric")
AVERAGED = ("experiment", "start", "parent", "model", "metric")
"""What the seeds of a mean agree in; a seed may lack its control."""
VALUES = ("child", "parent_value", "control_value", "over_parent", "over_control")


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `growth` and `growth_mean`."""
    rows = list(_rows(runs, lineage))
    header = (*LINEAGE, "seed", "parent_seed", *VALUES)
    statistics, means = averaged(rows, AVERAGED, VALUES)
    controls = {row["experiment"]: row["control"] for row in rows if row["control"]}
    means = [row | {"control": controls.get(row["experiment"])} for row in means]
    return {"growth": (header, rows), "growth_mean": ((*LINEAGE, *statistics[len(AVERAGED) :]), means)}


def _rows(runs: Sequence[Run], lineage: Lineage) -> Iterable[Row]:
    """One row per run, model and metric; `over_*` is child minus parent or control, paired by lineage."""
    for run in runs:
        parents = lineage.parents(run)
        if len(parents) != 1:
            continue
        control = lineage.control(run)
        head = {
            "experiment": run.experiment,
            "start": run.start,
            "seed": run.seed,
            "parent": parents[0].experiment,
            "parent_seed": parents[0].seed,
            "control": control.name if control else None,
        }
        for values in _comparison(run, parents[0], control.ensemble if control else None):
            yield head | values


def _comparison(run: Run, parent: Run, control: Run | None) -> Iterable[Row]:
    """Ensemble, mean of branches and branch 1 in every score, on the test images."""
    child_scores, parent_scores = run.final("test"), parent.final("test")
    control_scores = control.final("test") if control else None
    for model in ("ensemble", "branch_mean", "branch1"):
        for metric in SCORES:
            child, before = child_scores[model][metric], parent_scores[model][metric]
            longer = control_scores[model][metric] if control_scores else None
            yield {
                "model": model,
                "metric": metric,
                "child": child,
                "parent_value": before,
                "control_value": longer,
                "over_parent": difference(child, before),
                "over_control": difference(child, longer),
            }
