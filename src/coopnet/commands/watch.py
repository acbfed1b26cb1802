"""`coopnet runs STUDY --watch`: what is trained now, what waits, and what failed, over all processes and machines."""

import shutil
import sys
import time
from collections.abc import Sequence
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
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

EVERY = 2.0
"""Seconds between two looks."""
WIDTH = 120
SHOWN = 12
"""Lines of runs, at least, where there are that many."""


class Seen(NamedTuple):
    """A look at a study.

    Attributes:
        finished: runs that lie here, or in the run store, the latest last.
        running: runs that some process is on, with what it says.
        failed: runs that failed, and those that need one of them.
        interrupted: runs that can be continued, with the epochs that are done.
        waiting: all others, in the order of the plan.
    """

    finished: list[Run]
    running: list[tuple[Run, Live]]
    failed: list[Unavailable]
    interrupted: list[tuple[Run, int]]
    waiting: list[Run]

    @property
    def total(self) -> int:
        """Runs of the study."""
        return sum(len(runs) for runs in (self.finished, self.running, self.failed, self.interrupted, self.waiting))


def watch(workspace: Workspace, name: str) -> None:
    """Show a table that follows the runs until all are finished or the user has seen enough; in a pipe, show it once.

    Raises:
        CoopNetError: there is no such study.
    """
    plan, entries = study.load(workspace.root, name), Store(store.default_place(workspace.root))
    known: set[str] = set()
    if not sys.stdout.isatty():
        Console(width=WIDTH).print(table(plan, look(workspace, plan, entries, known), 1_000))
        return
    with Screen(auto_refresh=False) as screen:
        try:
            while True:
                seen = look(workspace, plan, entries, known)
                room = max(SHOWN, shutil.get_terminal_size().lines - 8)
                screen.update(table(plan, seen, room), refresh=True)
                if len(seen.finished) == seen.total:
                    break
                time.sleep(EVERY)
        except KeyboardInterrupt:
            pass
    print(_next(plan, seen))


def look(workspace: Workspace, plan: Study, entries: Store, known: set[str]) -> Seen:
    """What there is of a study now.

    Args:
        workspace: where results lie.
        plan: the study.
        entries: the run store.
        known: keys that were found finished before; those found now are added.
    """
    seen = Seen([], [], [], [], [])
    lost = failures.unavailable(workspace, plan)
    for run in plan.everything():
        record = workspace.run(plan, run) / "run.json"
        if run.key in known or files.read_field(record, "key") == run.key or entries.finished(run.key):
            known.add(run.key)
            seen.finished.append(run)
        elif found := live.read(entries, run.key):
            seen.running.append((run, found))
        elif (run.experiment, run.seed) in lost:
            seen.failed.append(lost[run.experiment, run.seed])
        elif (epochs := entries.epochs_done(run.key)) is not None:
            seen.interrupted.append((run, epochs))
        else:
            seen.waiting.append(run)
    return seen


def table(plan: Study, seen: Seen, room: int) -> Table:
    """The table, with at most so many lines: running runs first, then failed, interrupted and waiting ones."""
    counts = [
        (len(seen.finished), "finished"),
        (len(seen.running), "running"),
        (len(seen.failed), "failed"),
        (len(seen.interrupted), "interrupted"),
        (len(seen.waiting), "waiting"),
    ]
    said = ", ".join(f"{count} {word}" for count, word in counts if count)
    shown = Table(title=f"Study {plan.name}: {seen.total} networks, {said}", title_justify="left")
    for column in ("run", "state", "epoch", "images/s", "top-1", "time left", "on"):
        right = column in ("epoch", "images/s", "time left")
        shown.add_column(column, no_wrap=column != "state", justify="right" if right else "left")
    rows = [*map(_running, seen.running)]
    rows += [(one.run.name, one.text) for one in seen.failed]
    rows += [
        (run.name, "interrupted, can be continued", f"{epochs}/{run.row.training.epochs}")
        for run, epochs in seen.interrupted
    ]
    rows += [(run.name, _waiting(run, seen)) for run in seen.waiting]
    for cells in rows[:room]:
        shown.add_row(*map(escape, cells))
    if len(rows) > room:
        shown.caption = f"and {len(rows) - room} more; `coopnet runs {plan.name}` lists all"
    return shown


def _running(found: tuple[Run, Live]) -> Sequence[str]:
    run, now = found
    accuracy = "" if now.accuracy is None else f"{now.accuracy:.2f} % ({now.split})"
    left = "" if now.left is None else str(timedelta(seconds=round(max(now.left, 0))))
    epoch = f"{now.epoch + now.done:.1f}/{now.epochs}"
    return run.name, "running", epoch, f"{now.speed:.0f}", accuracy, left, f"{now.host}, {now.pid}"


def _waiting(run: Run, seen: Seen) -> str:
    """What a run waits for."""
    there = {one.key for one in seen.finished}
    missing = [source.name for source in run.sources if source.key not in there]
    return f"waiting for {', '.join(missing)}" if missing else "waiting"


def _next(plan: Study, seen: Seen) -> str:
    if len(seen.finished) == seen.total:
        return f"All runs are finished. The report: reports/{plan.name}/index.html"
    return (
        f"Continue with `snakemake --cores N --config study={plan.name}`; `coopnet runs {plan.name}` lists every run."
    )
