"""`coopnet tables`, `coopnet report`, `coopnet timing` and `coopnet log`: from results to pages and trackers."""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from coopnet import study
from coopnet.evaluation import gather
from coopnet.evaluation.gather import Gathered, GatheredRun, RunFolder, RunResults
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.report.published import Published
from coopnet.report.runs import StudyInfo
from coopnet.runs import failures, records, steps
from coopnet.runs.failures import Unavailable
from coopnet.runs.steps import Step
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

log = logging.getLogger(__name__)


def tables(workspace: Workspace, name: str, *, keep: bool = False) -> None:
    """Gather the results of all runs into `results/<study>/`, and the reasons of failed runs.

    Args:
        workspace: has the runs.
        name: name of the study.
        keep: take runs that are not in the workspace from `results/<study>/` as gathered before, perhaps on another
            machine.

    Raises:
        CoopNetError: a run is missing, damaged, or was made with other parameters than the plan has; or all failed; or
            `figures.yaml` is invalid; or a child and its parent come from different trainings; or, with `keep`, the
            gathered results were changed.
    """

    def planned() -> Step:
        plan = study.load(workspace.root, name)
        return steps.tables(workspace, plan, failures.unavailable(workspace, plan).values())

    kept = records.inputs_of(workspace, planned()) if keep else {}
    gathered = Gathered(workspace.results(name)) if keep else None
    published.read(workspace.published, study.rows(workspace.root))  # errors come before the earlier record is removed
    _sources(workspace, study.load(workspace.root, name), gathered)
    with records.recording(workspace, planned, kept):
        _tables(workspace, study.load(workspace.root, name), gathered)


def _tables(workspace: Workspace, plan: Study, gathered: Gathered | None) -> None:
    from coopnet.report import tables as results

    figures = published.read(workspace.published, study.rows(workspace.root))
    unavailable = failures.unavailable(workspace, plan)
    runs = _sources(workspace, plan, gathered)
    results.build(runs, describe(plan, figures, unavailable), workspace.tables(plan.name))
    gather.write(runs, workspace.results(plan.name))
    if unavailable:
        log.warning("warning: made without %s", failures.describe(unavailable))


def _sources(workspace: Workspace, plan: Study, gathered: Gathered | None) -> list[RunResults]:
    """The results of all runs that have not failed."""
    unavailable = failures.unavailable(workspace, plan)
    if len(unavailable) == len(plan.runs):
        raise CoopNetError(f"no run of study {plan.name} is left to report: {failures.describe(unavailable)}")
    runs = [_source(workspace, plan, run, gathered) for place, run in plan.runs.items() if place not in unavailable]
    _check_descent(runs)
    return runs


def _source(workspace: Workspace, plan: Study, run: Run, gathered: Gathered | None) -> RunResults:
    """The folder of a run; if it has none here, what is gathered of it.

    Raises:
        CoopNetError: neither has the planned run.
    """
    folder = workspace.run(plan, run)
    if gathered and not folder.exists():
        if gathered.records.get(run.name, {}).get("key") != run.key:
            raise CoopNetError(
                f"neither {folder} nor {gathered.results} has {run.name} with the settings of study {plan.name}; "
                f"train it here, or leave it out of the study"
            )
        return GatheredRun(run.experiment, run.seed, gathered)
    for made in filter(None, (run, run.transfer)):
        remedy = f"run `snakemake --cores N --config study={plan.name}`, which makes every run and the tables"
        records.read_run(workspace.run(plan, made), made, remedy)
    return _folder(workspace, plan, run)


def _check_descent(runs: Sequence[RunResults]) -> None:
    """Refuse a child that was made from another training of its parent than the one whose results are taken.

    The same run has the same key on every machine, and other weights, because CPUs and GPUs round differently.
    """
    found = {run.name: run.records()[run.name] for run in runs}
    weights = {record["key"]: (name, record["files"]["model.safetensors"]) for name, record in found.items()}
    for child, record in found.items():
        for parent in record["parents"]:
            name, digest = weights.get(parent["key"], (None, parent["digest"]))
            if digest != parent["digest"]:
                raise CoopNetError(
                    f"{child} was made from another training of {name} than the one here; run the workflow, which "
                    f"makes {child} again (or, for `coopnet tables --keep`, remove the folder of {name})"
                )


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
        {
            "experiment": one.run.experiment,
            "seed": one.run.seed,
            "kind": one.kind,
            "text": one.text,
            "causes": [run.name for run in one.causes],
        }
        for one in unavailable.values()
    ]
    return StudyInfo(
        plan.name, plan.title, plan.description, plan.threads, plan.device, experiments, figures, missing_runs
    )


def report(workspace: Workspace, name: str) -> None:
    """Make `reports/<study>/index.html` and `report.pdf` from the study's tables and `claims.json` alone."""
    from coopnet.report import report as pages  # pandas and matplotlib take seconds

    _require_tables(workspace, name)
    with records.recording(workspace, lambda: steps.report(workspace, name)):
        pages.render(workspace.tables(name), workspace.report(name))
    log.info("reports/%s/index.html and report.pdf", name)


def timing(workspace: Workspace, name: str) -> None:
    """Make `reports/<study>/timing.html`."""
    from coopnet.report import timing as page

    _require_tables(workspace, name)
    with records.recording(workspace, lambda: steps.timing(workspace, name)):
        page.render(workspace.tables(name), workspace.report(name))


def _require_tables(workspace: Workspace, name: str) -> None:
    path = workspace.tables(name) / "study.json"
    if not path.exists():
        study.load(workspace.root, name)  # refuses the name of no study
        raise CoopNetError(f"{path} is missing; run `coopnet tables {name}`")


def log_study(workspace: Workspace, name: str, to: str, place: str | None) -> None:
    """Send histories and scores of a study to an experiment tracker.

    Raises:
        CoopNetError: as `report.tracking.send`.
    """
    from coopnet.report import tracking

    log.info("sent; look at it with: %s", tracking.send(workspace.results(name), name, to, place))
