"""`coopnet tables`, `coopnet report`, `coopnet timing` and `coopnet log`: from results to pages and trackers."""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from coopnet import study
from coopnet.evaluation import gather
from coopnet.evaluation.gather import RunFolder
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.report.published import Published
from coopnet.report.runs import MissingRun, StudyInfo
from coopnet.runs import failures, records, steps
from coopnet.runs.failures import Unavailable
from coopnet.runs.steps import Step
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

log = logging.getLogger(__name__)


def tables(workspace: Workspace, name: str) -> None:
    """Gather the results of all runs into `results/<study>/`, and the reasons of failed runs.

    Raises:
        CoopNetError: a run is missing, damaged, or was made with other parameters than the plan has; or all failed; or
            `figures.yaml` is invalid.
    """

    def planned() -> Step:
        plan = study.load(workspace.root, name)
        return steps.tables(workspace, plan, failures.unavailable(workspace, plan).values())

    with records.recording(workspace, planned):
        _tables(workspace, study.load(workspace.root, name))


def _tables(workspace: Workspace, plan: Study) -> None:
    from coopnet.report import tables as results

    figures = published.read(workspace.published, study.rows(workspace.root))
    unavailable = failures.unavailable(workspace, plan)
    if len(unavailable) == len(plan.runs):
        raise CoopNetError(f"no run of study {plan.name} is left to report: {failures.describe(unavailable)}")
    folders = []
    for place, run in plan.runs.items():
        if place in unavailable:
            continue
        for made in filter(None, (run, run.transfer)):
            records.read_run(workspace.run(plan, made), made)
        folders.append(_folder(workspace, plan, run))
    results.build(folders, describe(plan, figures, unavailable), workspace.tables(plan.name))
    gather.write(folders, workspace.results(plan.name))
    if unavailable:
        log.warning("warning: made without %s", failures.describe(unavailable))


def _folder(workspace: Workspace, plan: Study, run: Run) -> RunFolder:
    """The folder of a run, with that of its network at transfer, if it started from trained weights by a transfer."""
    folder, at_transfer = workspace.run(plan, run), None
    if run.transfer:
        at_transfer = workspace.run(plan, run.transfer)
    elif run.row.training.epochs == 0 and run.row.start.kind not in ("random", "continue"):
        at_transfer = folder
    return RunFolder(run.experiment, run.seed, folder, at_transfer)


def describe(
    plan: Study, figures: Sequence[Published], unavailable: Mapping[tuple[str, int], Unavailable] = MappingProxyType({})
) -> StudyInfo:
    """Describe a study apart from its results: the seeds that have results, and the reasons of the others."""
    from coopnet.networks import flops  # torch takes seconds

    experiments = [
        {
            "name": name,
            "about": row.about,
            "part": row.part,
            "row": row.decisive() | {"parents": row.parents},
            "seeds": [seed for seed in plan.seeds(name) if (name, seed) not in unavailable],
            "parents": [{"experiment": parent} for parent in row.parents],
            "compute": flops.count(
                row, plan.experiments[row.parents[0]] if row.taught else None, plan.data[row.data.dataset]
            )._asdict(),
        }
        for name, row in plan.experiments.items()
    ]
    missing_runs = [
        MissingRun(one.run.experiment, one.run.seed, one.kind, one.text, [run.name for run in one.causes])
        for one in unavailable.values()
    ]
    return StudyInfo(
        plan.name, plan.title, plan.description, plan.threads, plan.device, experiments, figures, missing_runs
    )


def report(workspace: Workspace, name: str) -> None:
    """Make `reports/<study>/index.html` and `report.pdf` from the study's tables and `claims.json` alone."""
    from coopnet.report import report as pages  # pandas and matplotlib take seconds

    with records.recording(workspace, lambda: steps.report(workspace, name)):
        pages.render(workspace.tables(name), workspace.report(name))
    log.info("reports/%s/index.html and report.pdf", name)


def timing(workspace: Workspace, name: str) -> None:
    """Make `reports/<study>/timing.html`."""
    from coopnet.report import timing as page

    with records.recording(workspace, lambda: steps.timing(workspace, name)):
        page.render(workspace.tables(name), workspace.report(name))


def log_study(workspace: Workspace, name: str, to: str, place: str | None) -> None:
    """Send histories and scores of a study to an experiment tracker.

    Raises:
        CoopNetError: as `report.tracking.send`.
    """
    from coopnet.report import tracking

    log.info("sent; look at it with: %s", tracking.send(workspace.results(name), name, to, place))
