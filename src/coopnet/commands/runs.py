"""`coopnet runs`: list the runs of a study with their states, and find unused runs in the store."""

import sys
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import Timeout
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from coopnet import files, study
from coopnet.files.digests import remembered
from coopnet.files.errors import CoopNetError
from coopnet.report.wording import count
from coopnet.runs import failures, store
from coopnet.runs.records import RECORD
from coopnet.runs.states import state
from coopnet.runs.store import Store
from coopnet.runs.terminal import STATE, console, narrow
from coopnet.runs.workspace import Workspace
from coopnet.study import Run

WIDTH = 200
SHORT = 8
"""Digits of a key in a terminal; in a pipe a key is printed whole."""


def show(workspace: Workspace, name: str) -> None:
    """Print a table of all runs: state, settings that most experiments do not have, key, device and date."""
    plan = study.load(workspace.root, name)
    settings = {experiment: study.flatten(row.decisive()) for experiment, row in plan.experiments.items()}
    frequent = Counter((key, str(value)) for own in settings.values() for key, value in own.items())
    entries = Store(store.default_place(workspace.root))
    table = narrow(f"Study {name}: {len(plan.runs)} runs")
    for column in ("run", "state", "differs from most in", "key", "made"):
        whole, least = column in ("run", "key"), {"state": STATE}.get(column)
        table.add_column(column, no_wrap=whole, min_width=least, overflow="fold")
    with remembered(workspace.stamps / name / "digests.json") as digests:
        unavailable = failures.unavailable(workspace, plan)
        states = {
            run.name: state(workspace, plan, run, entries, digests, unavailable.get(place))
            for place, run in plan.runs.items()
        }
    for run in plan.runs.values():
        own = [
            f"{key}={value}"
            for key, value in settings[run.experiment].items()
            if 2 * frequent[key, str(value)] <= len(settings)
        ]
        record = workspace.run(plan, run) / "run.json"
        cells = (
            run.name,
            states[run.name],
            " ".join(own),
            run.key[: SHORT if sys.stdout.isatty() else None],
            _made(run, record, entries),
        )
        table.add_row(*map(escape, cells))
    console(WIDTH).print(table)


def _made(run: Run, record: Path, entries: Store) -> str:
    """The device that made a run and the date of its record in the store; a dash if the run was not made."""
    stored = entries.folder(run.key)
    made = [path for path in (record, stored / "run.json") if files.read_field(path, "key") == run.key]
    if not made:
        return "–"
    device = files.read_field(made[0], "device")
    parts = [str(device.get("name") or device.get("type"))] if isinstance(device, dict) else []
    if entries.finished(run.key):
        parts.append(f"{datetime.fromtimestamp((stored / RECORD).stat().st_mtime):%Y-%m-%d %H:%M}")
    return ", ".join(parts)


def collect_garbage(workspace: Workspace, *, remove: bool) -> None:
    """List the runs in the store that no study and no result of this workspace refers to.

    Args:
        workspace: has the studies and results.
        remove: also remove these runs, except those that another process is making.

    Raises:
        CoopNetError: a study cannot be read, or another worktree shares the store and runs would be removed: the runs
            that they refer to are not known.
    """
    entries = Store(store.default_place(workspace.root))
    sharing = ", ".join(map(str, store.other_worktrees(workspace.root)))
    refusal = f"other worktrees share this store, and what they need is not known here: {sharing}; remove them first"
    if sharing and remove:
        raise CoopNetError(f"nothing is removed, because {refusal} (`git worktree remove`)")
    known = referred(workspace)
    table = Table(title=f"Not referred to by any study or result of this clone: {entries.place}", title_justify="left")
    for column in ("run", "key", "state", "size"):
        table.add_column(column, no_wrap=True)
    total = busy = 0
    for kind, folder in entries.folders():
        if kind != "damaged" and folder.name in known:
            continue
        size = _size(folder)
        what = _described(folder / RECORD)
        if not remove or _remove(entries, folder):
            total += size
            table.add_row(what, folder.name, kind, decimal(size))
        else:
            busy += 1
    if busy:
        print(f"Kept {count(busy, 'run')} that other processes are making")
    if not table.rows and not busy:
        print(f"Nothing to remove: everything in {entries.place} is referred to")
    if not table.rows:
        return
    console(WIDTH).print(table)
    rest = refusal if sharing else "`coopnet runs gc --yes` removes it"
    print(f"Removed {decimal(total)}" if remove else f"{decimal(total)}; {rest}")


def _size(folder: Path) -> int:
    """Bytes of its files; a process that makes the run may remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size * path.is_file()
    return total


def _described(record: Path) -> str:
    """A run in the store in a few words; its record has no name, because several rows may share the run."""
    row, seed = files.read_field(record, "row"), files.read_field(record, "seed")
    if not isinstance(row, dict):
        return "–"
    model, training = row["model"], row["training"]
    network = model.get("name") or f"depth {model['depth']}"
    return f"{network}, {model['branches']} branches, {training['epochs']} epochs, seed {seed}"


def referred(workspace: Workspace) -> set[str]:
    """Keys of all runs of all studies, and of all checkpoints in the workspace."""
    keys = {run.key for name in study.names(workspace.root) for run in study.load(workspace.root, name).everything()}
    records = workspace.root.glob("checkpoints/**/run.json")
    return keys | {str(key) for path in records if (key := files.read_field(path, "key"))}


def _remove(entries: Store, folder: Path) -> bool:
    """Remove a folder of the store; False if another process is making that run."""
    lock = entries.lock(folder.name)
    try:
        with lock.acquire(timeout=0):
            entries.remove(folder)
    except Timeout:
        return False
    except OSError as error:  # the lock belongs to another user
        raise CoopNetError(f"cannot lock {lock.lock_file}: {error.strerror or error}") from error
    return True
