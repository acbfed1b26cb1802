"""`coopnet record`: record in DVC the results that Snakemake or single commands made."""

import logging

from coopnet import files, study
from coopnet.data.datasets import Dataset
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import dvc, phase_keys, records, steps
from coopnet.runs.workspace import Workspace
from coopnet.study import Study
from coopnet.study.phases import TRAINING

log = logging.getLogger(__name__)

LAST = ("tables", "claims", "report", "report")
"""The stage of each step that follows the runs; the page of timings is recorded with the report."""

RECORDED = (*TRAINING, *dict.fromkeys(LAST))
"""The stages of a study."""


def record(workspace: Workspace, name: str) -> None:
    """Record in DVC the phases of a study whose results are complete and match the plan.

    Incomplete phases are skipped. Stale or damaged results are refused.

    Raises:
        CoopNetError: some runs or steps were refused (the other phases are recorded); or parameters were edited
            meanwhile (nothing is recorded); or DVC failed.
    """
    dvc.check_repository(workspace.root, name)
    plan = study.load(workspace.root, name)
    with remembered(workspace.stamps / name / "digests.json") as digests:
        complete, refused = _sort(workspace, plan, digests)
    lock = dvc.lock(workspace.root, name)
    before = lock.read_text(encoding="utf-8") if lock.is_file() else None
    phase_keys.write(workspace, plan)
    for phase in complete:  # DVC requires the folder of a phase even if it makes nothing in this study
        if phase in TRAINING:
            workspace.checkpoints(name, phase).mkdir(parents=True, exist_ok=True)
    listed = dvc.datasets(workspace.root)
    for dataset in sorted(set(plan.datasets()) - set(listed)):
        log.info("the images of %s are not recorded; add it to the list of the stage prepare in dvc.yaml", dataset)
    known = [dataset for dataset in plan.datasets() if dataset in listed]
    prepared = [f"prepare@{dataset}" for dataset in known if _prepared(workspace, plan.data[dataset])]
    dvc.commit(workspace.root, *prepared, *(dvc.address(name, phase) for phase in ("plan", *complete)))
    if not phase_keys.are_written(workspace, study.load(workspace.root, name)):
        lock.unlink(missing_ok=True) if before is None else files.write_text(lock, before)
        raise CoopNetError("parameters were edited while DVC recorded, so nothing is recorded; run it again")
    log.info("recorded in DVC: %d of %d phases of %s", len(complete), len(RECORDED), name)
    if refused:
        raise CoopNetError("not recorded: " + "; ".join(refused))


def _sort(workspace: Workspace, plan: Study, digests: Digests) -> tuple[list[str], list[str]]:
    """The phases that are complete and match the plan, and a message for every stale or damaged result."""
    refused: list[str] = []
    incomplete: set[str] = set()
    for run in plan.everything():
        problem = records.check_run(workspace, plan, run, digests)
        problem = problem or records.check_step(workspace, steps.evaluate(workspace, plan, run), digests)
        if problem is not None:
            incomplete.add(run.phase)
            refused += [problem.text] if problem.kind != "missing" else []
    for phase, step in zip(LAST, steps.of_all_runs(workspace, plan), strict=True):
        problem = records.check_step(workspace, step, digests)
        if problem is not None:
            incomplete.add(phase)
            refused += [problem.text] if problem.kind == "damaged" else []
    losses = files.read_field(workspace.tables(plan.name) / "study.json", "losses")
    if losses:  # the pages agree with these tables, but the tables lack failed runs
        incomplete |= set(LAST)
        missing = [f"{loss['experiment']}/seed{loss['seed']}" for loss in losses]
        refused.append(f"tables, claims and report of {plan.name}, which were made without {', '.join(missing)}")
    return [phase for phase in RECORDED if phase not in incomplete], refused


def _prepared(workspace: Workspace, dataset: Dataset) -> bool:
    """Whether the canonical arrays of a dataset are in the workspace and undamaged."""
    from coopnet.data import canonical

    try:
        canonical.verify(workspace.prepared(dataset.name), dataset)
    except CoopNetError:
        return False
    return True
