"""`coopnet tables`, `coopnet report` and `coopnet timing`: from results to pages."""

import logging
from collections.abc import Sequence

from coopnet import receipts, steps, study
from coopnet.reporting import published
from coopnet.reporting.published import Published
from coopnet.reporting.runs import RunFolder, StudyInfo
from coopnet.study import Study
from coopnet.workspace import Workspace

log = logging.getLogger(__name__)


def tables(workspace: Workspace, name: str) -> None:
    """Gather the results of all runs into `results/<study>/tables`.

    Raises:
        CoopNetError: a run is missing, damaged, or was made with other parameters than the plan has; or `figures.yaml`
            is wrong.
    """
    with receipts.making(workspace, lambda: steps.tables(workspace, study.load(workspace.root, name))):
        _tables(workspace, study.load(workspace.root, name))


def _tables(workspace: Workspace, plan: Study) -> None:
    from coopnet.commands.evaluate import checked_record  # and with it SciPy, which the pages do without
    from coopnet.reporting import tables as results

    figures = published.read(workspace.published, study.rows(workspace.root))
    folders = []
    for run in plan.runs.values():
        folder = workspace.run(plan, run)
        checked_record(folder, run)
        folders.append(RunFolder(run.experiment, run.seed, folder))
    results.build(folders, describe(plan, figures), workspace.tables(plan.name))


def describe(plan: Study, figures: Sequence[Published]) -> StudyInfo:
    """What a study is, apart from its results."""
    from coopnet.networks import flops  # torch takes seconds

    experiments = [
        {
            "name": name,
            "about": row.about,
            "part": row.part,
            "row": row.decisive() | {"parents": row.parents},
            "seeds": plan.seeds(name),
            "parents": [{"experiment": parent} for parent in row.parents],
            "compute": flops.count(row, plan.experiments[row.parents[0]] if row.taught else None)._asdict(),
        }
        for name, row in plan.experiments.items()
    ]
    return StudyInfo(plan.name, plan.title, plan.description, plan.threads, plan.device, experiments, figures)


def report(workspace: Workspace, name: str) -> None:
    """Make `reports/<study>/index.html` and `report.pdf` from the study's tables, and from nothing else."""
    from coopnet.reporting import report as pages  # pandas and matplotlib take seconds

    with receipts.making(workspace, lambda: steps.report(workspace, study.load(workspace.root, name))):
        pages.render(workspace.tables(name), workspace.report(name))
    log.info("reports/%s/index.html and report.pdf", name)


def timing(workspace: Workspace, name: str) -> None:
    """Make `reports/<study>/timing.html`."""
    from coopnet.reporting import timing as page

    with receipts.making(workspace, lambda: steps.timing(workspace, study.load(workspace.root, name))):
        page.render(workspace.tables(name), workspace.report(name))
