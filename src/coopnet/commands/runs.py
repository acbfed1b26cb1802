"""`coopnet runs`: what a study consists of, how far it is, and what in the store nothing refers to."""

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from coopnet import files, study
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import failures, records, store
from coopnet.runs.failures import Unavailable
from coopnet.runs.records import RECORD
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, numerics

WIDTH = 200


def show(workspace: Workspace, name: str) -> None:
    """Print a table of all runs: state, settings of their own, key, and when and on what each was made."""
    plan, plain = study.load(workspace.root, name), study.flatten(study.plain(workspace.root, name).decisive())
    entries = Store(store.default_place(workspace.root))
    table = Table(title=f"Study {name}: {len(plan.runs)} runs", title_justify="left")
    for column in ("run", "state", "differs from the defaults in", "key", "made"):
        table.add_column(column, no_wrap=column in ("run", "key"), overflow="fold")
    with remembered(workspace.stamps / name / "digests.json") as digests:
        unavailable = failures.unavailable(workspace, plan)
        states = {
            run.name: state(workspace, plan, run, entries, digests, unavailable.get(place))
            for place, run in plan.runs.items()
        }
    for run in plan.runs.values():
        own = [f"{key}={value}" for key, value in study.flatten(run.row.decisive()).items() if plain.get(key) != value]
        record = workspace.run(plan, run) / "run.json"
        cells = (run.name, states[run.name], " ".join(own), run.key, _made(run, record, entries))
        table.add_row(*map(escape, cells))
    _print(table)


def state(
    workspace: Workspace,
    plan: Study,
    run: Run,
    entries: Store,
    digests: Digests,
    unavailable: Unavailable | None = None,
) -> str:
    """`finished`, `damaged` or `incomplete` and what, `in the store`, `failed` and why, `waiting` for a run that did.

    Else `resumable at epoch e of n`, `stale` and why, or `missing`.
    """
    record = workspace.run(plan, run) / "run.json"
    problem = records.of_run(workspace, plan, run, digests)
    if problem is None:
        return "finished"
    stored = "; the store has it" if entries.finished(run.key) else ""
    if problem.kind == "damaged":
        return f"damaged: {problem.text}{stored}"
    if files.read_field(record, "key") == run.key:
        return f"incomplete: {problem.text}{stored}"
    if stored:
        return "in the store"
    if unavailable:
        return unavailable.text
    if (epochs := entries.epochs_done(run.key)) is not None:
        return f"resumable at epoch {epochs} of {run.row.training.epochs}"
    return f"stale: {'; '.join(reasons(run, files.read_json(record)))}" if record.is_file() else "missing"


def reasons(run: Run, record: Mapping[str, Any]) -> list[str]:
    """The differences of a record from the plan: settings with their former values, then source, data and parents."""
    planned, made = study.flatten(run.row.decisive()), study.flatten(record.get("row") or {})
    changed = [f"{key} was {made.get(key)}" for key in planned | made if planned.get(key) != made.get(key)]
    changed += [f"{key} was {record.get(key)}" for key in ("seed", "threads") if record.get(key) != getattr(run, key)]
    if (record.get("code") or {}).get("numerics") != numerics.source_hash():
        changed.append("the source that decides results has changed")
    if (record.get("data") or {}).get("digest") != run.dataset.digest:
        changed.append("other data")
    if [parent.get("key") for parent in record.get("parents") or ()] != [parent.key for parent in run.parents]:
        changed.append("other parents")
    return changed or ["what it was made from has changed"]


def _made(run: Run, record: Path, entries: Store) -> str:
    """The device that made a run, and the date, which only the store knows; a dash where there is no such run."""
    stored = entries.folder(run.key)
    made = [path for path in (record, stored / "run.json") if files.read_field(path, "key") == run.key]
    if not made:
        return "–"
    device = files.read_field(made[0], "device")
    said = [str(device.get("name") or device.get("type"))] if isinstance(device, dict) else []
    if entries.finished(run.key):
        said.append(f"{datetime.fromtimestamp((stored / RECORD).stat().st_mtime):%Y-%m-%d %H:%M}")
    return ", ".join(said)


def collect_garbage(workspace: Workspace, *, remove: bool) -> None:
    """Say which runs in the store no study and no result of this workspace refers to; remove them if told to.

    A run that another process is on is left alone.

    Raises:
        CoopNetError: a study cannot be read, so what it refers to is not known.
    """
    entries = Store(store.default_place(workspace.root))
    known = referred(workspace)
    table = Table(title=f"Not referred to by any study or result of this clone: {entries.place}", title_justify="left")
    for column in ("run", "key", "state", "size"):
        table.add_column(column, no_wrap=True)
    total = 0
    for kind, folder in entries.folders():
        if kind != "damaged" and folder.name in known:
            continue
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        what = _described(folder / RECORD)
        if not remove or _remove(entries, folder):
            total += size
            table.add_row(what, folder.name, kind, decimal(size))
    if not table.rows:
        print(f"Nothing to remove: everything in {entries.place} is referred to")
        return
    _print(table)
    print(f"Removed {decimal(total)}" if remove else f"{decimal(total)}; `coopnet runs gc --yes` removes it")


def _described(record: Path) -> str:
    """What a run in the store is, in a few words; its name is not in its record, because several rows may share it."""
    row, seed = files.read_field(record, "row"), files.read_field(record, "seed")
    if not isinstance(row, dict):
        return "–"
    model, training = row["model"], row["training"]
    return f"depth {model['depth']}, {model['branches']} branches, {training['epochs']} epochs, seed {seed}"


def referred(workspace: Workspace) -> set[str]:
    """Keys of all runs of all studies, and of all results and checkpoints that lie in the workspace."""
    keys = {run.key for name in study.names(workspace.root) for run in study.load(workspace.root, name).everything()}
    records = workspace.root.glob("checkpoints/**/run.json")
    return keys | {str(key) for path in records if (key := files.read_field(path, "key"))}


def _remove(entries: Store, folder: Path) -> bool:
    """Remove a folder of the store, unless another process is on that run."""
    lock = entries.lock(folder.name)
    try:
        with lock.acquire(timeout=0):
            entries.remove(folder)
    except Timeout:
        return False
    except OSError as error:  # it is another user's
        raise CoopNetError(f"cannot lock {lock.lock_file}: {error.strerror or error}") from error
    return True


def _print(table: Table) -> None:
    # A pipe has no width of its own, and a key is only worth printing whole.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
