"""`coopnet runs`: what a study consists of, and how far it is."""

import sys

from rich.console import Console
from rich.table import Table

from coopnet import files, store, study
from coopnet.store import Store
from coopnet.study import Run, Study
from coopnet.workspace import Workspace

WIDTH = 160


def runs(workspace: Workspace, name: str) -> None:
    """Print a table of all runs: parents, state, key."""
    plan = study.load(workspace.root, name)
    entries = Store(store.default_place(workspace.root))
    table = Table(title=f"Study {name}: {len(plan.runs)} runs", title_justify="left")
    for column in ("run", "parents", "state", "key"):
        table.add_column(column, no_wrap=True)
    for run in plan.runs.values():
        table.add_row(run.name, " ".join(p.name for p in run.parents), state(workspace, plan, run, entries), run.key)
    # A pipe has no width of its own, and a key is only worth printing whole.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def state(workspace: Workspace, plan: Study, run: Run, entries: Store) -> str:
    """`finished`, `in the store`, `resumable at epoch e of n`, `stale` (made with other parameters) or `missing`."""
    record = workspace.run(plan, run) / "run.json"
    if files.look(record, "key") == run.key:
        return "finished"
    if entries.finished(run.key):
        return "in the store"
    states = [files.look(path, "facts") for path in entries.unfinished(run.key).glob("*/state.json")]
    epochs = [facts["epoch"] for facts in states if isinstance(facts, dict) and "epoch" in facts]
    if epochs:
        return f"resumable at epoch {max(epochs)} of {run.row.training.epochs}"
    return "stale" if record.is_file() else "missing"
