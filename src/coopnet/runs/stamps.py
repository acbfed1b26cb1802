"""Tiny files that tell Snakemake, by their dates, what it has to ask for.

Snakemake goes by file times. Its own memory (`.snakemake/metadata`) knows nothing of what another engine or a command
made, and a clone's files have the dates of the clone. So before every start each run and each step is looked at by
content (`receipts.py`): its stamp, an input of its rule, is older than every output while all is as the plan has it,
and new as soon as it is not; and outputs that are as the plan has them are never older than what they were made from.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from coopnet import files
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import receipts, steps
from coopnet.runs.receipts import Problem
from coopnet.runs.steps import Step
from coopnet.runs.workspace import PREPARED, Workspace, targets
from coopnet.study import Run, Study

log = logging.getLogger(__name__)

LONG_AGO = 315532800.0  # 1980: older than any output


class Due(NamedTuple):
    """What a study still needs, by experiment and seed.

    Attributes:
        runs: those that are not as planned: to be taken from the run store, or trained.
        evaluations: of the others, those whose evaluation alone is not.
    """

    runs: set[tuple[str, int]]
    evaluations: set[tuple[str, int]]


def of_run(workspace: Workspace, plan: Study, experiment: str, seed: int | str) -> Path:
    """The stamp of a run and its evaluation."""
    return workspace.stamps / plan.name / "train" / f"{experiment}-seed{seed}"


def of_step(workspace: Workspace, name: str) -> Path:
    """The stamp of a step that reads all runs, by its name."""
    return workspace.stamps / name


def refresh(workspace: Workspace, plan: Study) -> Due:
    """Date the stamps of all runs and steps of a study, name what is damaged, and return what is to be done.

    Raises:
        CoopNetError: the stamps cannot be written.
    """
    due = Due(set(), set())
    with remembered(workspace.stamps / plan.name / "digests.json") as digests:
        for place, run in plan.runs.items():
            problem = receipts.of_run(workspace, plan, run, digests)
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
    """The files that a run is made from: images, and the records of its parents' checkpoints or of an imported one."""
    folders = [workspace.checkpoint(plan, parent) for parent in run.parents]
    if run.row.start.kind == "imported":
        folders.append(workspace.root / run.row.start.path)
    data = [workspace.prepared(run.row.data.dataset) / name for name in PREPARED]
    return data + [folder / "model.json" for folder in folders]


def _look(workspace: Workspace, step: Step, digests: Digests) -> Problem | None:
    """What is wrong with the outputs of a step; where nothing is, they are dated after its inputs."""
    problem = receipts.of_step(workspace, step, digests)
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
