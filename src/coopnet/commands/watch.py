"""`coopnet runs STUDY --watch`: the running, waiting and failed runs of a study, of all processes and machines."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from rich.console import Console
from rich.live import Live as Screen
from rich.markup import escape
from rich.table import Table

from coopnet import files, study
from coopnet.runs import failures, live, store
from coopnet.runs.failures import Unavailable
from coopnet.runs.live import Live
from coopnet.runs.store import Store
from coopnet.runs.terminal import STATE, narrow
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

EVERY = 2.0
"""Seconds between two updates."""
WIDTH = 120
SHOWN = 12
"""Least number of lines of runs, if there are that many."""


class Progress(NamedTuple):
    """The progress of a study: its runs by state, each in the order of the plan.

    Attributes:
        finished: runs that are finished in the workspace or in the run store.
        running: runs that a process trains now, with their progress.
        failed: runs that failed, and runs that need one of them.
        interrupted: runs that can be continued, with their number of finished epochs.
        waiting: all others.
    """

    finished: list[Run]
    running: list[tuple[Run, Live]]
    failed: list[Unavailable]
    interrupted: list[tuple[Run, int]]
    waiting: list[Run]

    @property
    def total(self) -> int:
        """Number of runs of the study."""
        return sum(len(runs) for runs in (self.finished, self.running, self.failed, self.interrupted, self.waiting))


def watch(workspace: Workspace, name: str) -> None:
    """Show a table that follows the runs until all are finished or Ctrl-C; in a pipe, show it once.

    Raises:
        CoopNetError: there is no such study.
    """
    plan, entries = study.load(workspace.root, name), Store(store.default_place(workspace.root))
    known: set[str] = set()
    if not sys.stdout.isatty():
        Console(width=WIDTH).print(table(plan, progress_of(workspace, plan, entries, known), 1_000))
        return
    with Screen(auto_refresh=False) as screen:
        try:
            while True:
                progress = progress_of(workspace, plan, entries, known)
                room = max(SHOWN, shutil.get_terminal_size().lines - 8)
                screen.update(table(plan, progress, room), refresh=True)
                if len(progress.finished) == progress.total:
                    break
                time.sleep(EVERY)
        except KeyboardInterrupt:
            return
    print(_next(plan, progress))


def progress_of(workspace: Workspace, plan: Study, entries: Store, known: set[str]) -> Progress:
    """The present progress of a study. Keys of finished runs are added to `known`, and not looked up again."""
    progress = Progress([], [], [], [], [])
    unavailable = failures.unavailable(workspace, plan)
    for run in plan.everything():
        record = workspace.run(plan, run) / "run.json"
        if run.key in known or files.read_field(record, "key") == run.key or entries.finished(run.key):
            known.add(run.key)
            progress.finished.append(run)
        elif found := live.read(entries, run.key):
            progress.running.append((run, found))
        elif (run.experiment, run.seed) in unavailable:
            progress.failed.append(replace(unavailable[run.experiment, run.seed], run=run))
        elif (epochs := entries.epochs_done(run.key)) is not None:
            progress.interrupted.append((run, epochs))
        else:
            progress.waiting.append(run)
    return progress


def table(plan: Study, progress: Progress, room: int) -> Table:
    """The table, of at most `room` lines: running runs first, then failed, interrupted and waiting ones."""
    counts = [
        (len(progress.finished), "finished"),
        (len(progress.running), "running"),
        (len(progress.failed), "failed or waiting for one that failed"),
        (len(progress.interrupted), "interrupted"),
        (len(progress.waiting), "waiting"),
    ]
    summary = ", ".join(f"{count} {word}" for count, word in counts if count)
    result = narrow(f"Study {plan.name}: {progress.total} networks, {summary}")
    for column in ("run", "state", "epoch", "images/s", "top-1", "time\nleft", "on"):
        number, least = column in ("epoch", "images/s", "time\nleft"), {"state": STATE}.get(column)
        result.add_column(
            column, no_wrap=number, min_width=least, justify="right" if number else "left", overflow="fold"
        )
    rows = [*map(_running, progress.running)]
    rows += [(one.run.name, one.text) for one in progress.failed]
    rows += [
        (run.name, "interrupted, can be continued", f"{epochs}/{run.row.training.epochs}")
        for run, epochs in progress.interrupted
    ]
    rows += [(run.name, _waiting(run, progress)) for run in progress.waiting]
    for cells in rows[:room]:
        result.add_row(*map(escape, cells))
    if len(rows) > room:
        result.caption = f"and {len(rows) - room} more; `coopnet runs {plan.name}` lists all"
    return result


def _running(found: tuple[Run, Live]) -> Sequence[str]:
    run, now = found
    accuracy = "" if now.accuracy is None else f"{now.accuracy:.2f} % ({now.split})"
    left = "" if now.left is None else str(timedelta(seconds=round(max(now.left, 0))))
    epoch = f"{now.epoch + now.done:.1f}/{now.epochs}"
    return run.name, "running", epoch, f"{now.speed:.0f}", accuracy, left, f"{now.host}, {now.pid}"


def _waiting(run: Run, progress: Progress) -> str:
    """State of a waiting run: `waiting`, with its missing parents if there are any."""
    finished = {one.key for one in progress.finished}
    missing = [source.name for source in run.sources if source.key not in finished]
    return f"waiting for {', '.join(missing)}" if missing else "waiting"


def _next(plan: Study, progress: Progress) -> str:
    if len(progress.finished) == progress.total:
        return f"All runs are finished. The report: reports/{plan.name}/index.html"
    return (
        f"Continue with `snakemake --cores N --config study={plan.name}`; `coopnet runs {plan.name}` lists every run."
    )
