"""Stamps: small files whose dates tell Snakemake, before it plans, which runs and steps have to be made.

Snakemake compares file dates. Its own metadata (`.snakemake/metadata`) does not cover files made by another engine or
a command, and the files of a clone have the dates of the clone. So before every start each run and each step is checked
by content (`coopnet.runs.records`). The stamp of a rule is one of its inputs. It is older than every output while the
results match the plan, and new as soon as they do not. Outputs that match the plan are never older than their inputs.
"""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from coopnet import files
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import records, steps
from coopnet.runs.records import Problem
from coopnet.runs.steps import Step
from coopnet.runs.workspace import PREPARED, Workspace, targets
from coopnet.study import Run, Study

log = logging.getLogger(__name__)

LONG_AGO = 315532800.0  # the year 1980: older than any output


class Due(NamedTuple):
    """The runs and evaluations that a study still needs, by phase, experiment and seed.

    Attributes:
        runs: runs that do not match the plan: they are copied from the run store, or trained.
        evaluations: other runs, whose evaluation alone does not match the plan.
    """

    runs: set[tuple[str, str, int]]
    evaluations: set[tuple[str, str, int]]


def run_stamp(workspace: Workspace, plan: Study, phase: str, experiment: str, seed: int | str) -> Path:
    """The stamp of a run and its evaluation."""
    return workspace.stamps / plan.name / phase / f"{experiment}-seed{seed}"


def step_stamp(workspace: Workspace, name: str) -> Path:
    """The stamp of a step that reads all runs, e.g. `mini/tables`."""
    return workspace.stamps / name


def refresh(workspace: Workspace, plan: Study) -> Due:
    """Update the stamps of all runs and steps of a study, warn of damaged files, and return what has to be made.

    Raises:
        CoopNetError: the stamps cannot be written.
    """
    due = Due(set(), set())
    with remembered(workspace.stamps / plan.name / "digests.json") as digests:
        _date_future(workspace, plan, digests)
        for run in plan.everything():
            place = run.phase, run.experiment, run.seed
            problem = records.check_run(workspace, plan, run, digests)
            if problem is None:
                _date_after(origins(workspace, plan, run), targets(workspace, plan, run).values(), digests)
            evaluation = _check(workspace, steps.evaluate(workspace, plan, run), digests)
            if problem or evaluation:
                (due.runs if problem else due.evaluations).add(place)
            _mark(run_stamp(workspace, plan, *place), problem, evaluation)
        for step in steps.of_all_runs(workspace, plan):
            _mark(step_stamp(workspace, step.name), _check(workspace, step, digests))
    return due


def first_problem(workspace: Workspace, plan: Study, phase: str) -> Problem | None:
    """The problem of the first result of a phase that does not match the plan; None if all match."""
    with remembered(workspace.stamps / plan.name / "digests.json") as digests:
        found = [records.check_run(workspace, plan, run, digests) for run in plan.of_phase(phase)]
        found += [records.check_step(workspace, step, digests) for step in steps.of_phase(workspace, plan, phase)]
    return next(filter(None, found), None)


def origins(workspace: Workspace, plan: Study, run: Run) -> list[Path]:
    """The files that a run is made from and compared with: images, and records of its transfer and its parents."""
    made_before = (*run.sources, *run.parents)
    records = list(dict.fromkeys(workspace.run(plan, one) / "run.json" for one in made_before))
    if run.row.start.kind == "imported":
        records.append(workspace.root / run.row.start.path / "model.json")
    return [workspace.prepared(run.row.data.dataset) / name for name in PREPARED] + records


def _date_future(workspace: Workspace, plan: Study, digests: Digests) -> None:
    """Date files of the future a minute ago, so that every stamp that is dated now is newer, however coarse dates are.

    Such dates come from a machine whose clock is ahead, or from before a clock was set back.
    """
    paths, planned = set(), list(steps.of_all_runs(workspace, plan))
    for run in plan.everything():
        paths |= {*origins(workspace, plan, run), *targets(workspace, plan, run).values()}
        planned.append(steps.evaluate(workspace, plan, run))
    now = time.time()
    for path in paths.union(*((*step.inputs, *step.outputs) for step in planned)):
        if path.exists() and max(path.stat().st_mtime, path.lstat().st_mtime) > now:
            digests.date(path, now - 60)


def _check(workspace: Workspace, step: Step, digests: Digests) -> Problem | None:
    """The problem of a step's outputs; if there is none, the outputs are dated after the inputs."""
    problem = records.check_step(workspace, step, digests)
    if problem is None:
        _date_after(step.inputs, step.outputs, digests)
    return problem


def _mark(stamp: Path, *found: Problem | None) -> None:
    """Date a stamp long ago if there is no problem, and now if there is one.

    The date is now, not that of the first detection: files may have appeared since, for example by `git checkout`.

    Raises:
        CoopNetError: it cannot be written.
    """
    problems = [problem for problem in found if problem]
    for problem in problems:
        if problem.kind == "damaged":
            log.warning("warning: %s; made again", problem.text)
    try:
        if not (stamp.is_file() and stamp.stat().st_size):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            # For an empty file Snakemake compares the checksum instead of the date.
            stamp.write_text("stamp\n", encoding="utf-8")
        os.utime(stamp, (LONG_AGO, LONG_AGO) if not problems else None)
    except OSError as error:
        raise CoopNetError(f"cannot write {stamp}: {files.reason(error)}") from error


def _date_after(inputs: Iterable[Path], outputs: Iterable[Path], digests: Digests) -> None:
    """Date outputs now if they are older than the newest input."""
    newest = max((path.stat().st_mtime_ns for path in inputs if path.exists()), default=0)
    for path in outputs:
        if path.stat().st_mtime_ns < newest:
            digests.date(path)
