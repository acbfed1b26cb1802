"""What Snakemake needs to know before it plans: tiny files that tell by their dates what it has to ask for.

Snakemake goes by file times. Its own memory (`.snakemake/metadata`) knows nothing of what another engine or a command
made, and a clone's files have the dates of the clone. So before every start each run and each step is looked at by
content (`coopnet.runs.records`): its stamp, an input of its rule, is older than every output while all is as the plan
has it, and new as soon as it is not; and outputs that are as the plan has them are never older than what they were made
from.
"""

import contextlib
import fcntl
import logging
import os
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

LONG_AGO = 315532800.0  # 1980: older than any output


class Due(NamedTuple):
    """What a study still needs, by phase, experiment and seed.

    Attributes:
        runs: those that are not as planned: to be taken from the run store, or trained.
        evaluations: of the others, those whose evaluation alone is not.
    """

    runs: set[tuple[str, str, int]]
    evaluations: set[tuple[str, str, int]]


def of_run(workspace: Workspace, plan: Study, phase: str, experiment: str, seed: int | str) -> Path:
    """The stamp of a run and its evaluation."""
    return workspace.stamps / plan.name / phase / f"{experiment}-seed{seed}"


def of_step(workspace: Workspace, name: str) -> Path:
    """The stamp of a step that reads all runs, by its name: `mini/tables`."""
    return workspace.stamps / name


def refresh(workspace: Workspace, plan: Study) -> Due:
    """Date the stamps of all runs and steps of a study, name what is damaged, and return what is to be done.

    Raises:
        CoopNetError: the stamps cannot be written.
    """
    due = Due(set(), set())
    with remembered(workspace.stamps / plan.name / "digests.json") as digests:
        for run in plan.everything():
            place = run.phase, run.experiment, run.seed
            problem = records.of_run(workspace, plan, run, digests)
            if problem is None:
                _order(origins(workspace, plan, run), targets(workspace, plan, run).values(), digests)
            evaluation = _look(workspace, steps.evaluate(workspace, plan, run), digests)
            if problem or evaluation:
                (due.runs if problem else due.evaluations).add(place)
            _mark(of_run(workspace, plan, *place), problem, evaluation)
        for step in steps.of_all_runs(workspace, plan):
            _mark(of_step(workspace, step.name), _look(workspace, step, digests))
    return due


def origins(workspace: Workspace, plan: Study, run: Run) -> list[Path]:
    """The files that a run is made from, and compared with: images, and records of its transfer and its parents."""
    made_before = (*run.sources, *run.parents)
    records = list(dict.fromkeys(workspace.run(plan, one) / "run.json" for one in made_before))
    if run.row.start.kind == "imported":
        records.append(workspace.root / run.row.start.path / "model.json")
    return [workspace.prepared(run.row.data.dataset) / name for name in PREPARED] + records


def _look(workspace: Workspace, step: Step, digests: Digests) -> Problem | None:
    """What is wrong with the outputs of a step; where nothing is, they are dated after its inputs."""
    problem = records.of_step(workspace, step, digests)
    if problem is None:
        _order(step.inputs, step.outputs, digests)
    return problem


def _mark(stamp: Path, *found: Problem | None) -> None:
    """Date a stamp long ago if there is no problem, now if there is.

    Now, and not when it was first seen: what lies there may have been put there since, by `git checkout` for one.

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
            # Of an empty file Snakemake looks at the checksum, not at the date.
            stamp.write_text("stamp\n", encoding="utf-8")
        os.utime(stamp, (LONG_AGO, LONG_AGO) if not problems else None)
    except OSError as error:
        raise CoopNetError(f"cannot write {stamp}: {files.reason(error)}") from error


def _order(inputs: Iterable[Path], outputs: Iterable[Path], digests: Digests) -> None:
    """Date outputs after inputs where they are not."""
    newest = max((path.stat().st_mtime_ns for path in inputs if path.exists()), default=0)
    for path in outputs:
        if path.stat().st_mtime_ns < newest:
            digests.date(path)


def clear_stale(folder: Path) -> int:
    """Remove what a killed Snakemake left of its locks, unless another one is alive here.

    Every Snakemake holds a lock that dies with its process, shared with the others; who has it alone for a moment knows
    that whatever lies in `locks/` is nobody's.

    Args:
        folder: Snakemake's own, `.snakemake`.

    Returns:
        The descriptor of the lock, to be kept open for as long as the process lives.
    """
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / "alive.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else is alive, or the file system has no locks
        pass
    else:
        for left in (folder / "locks").glob("*"):
            left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle
