"""`coopnet runs`: what a study consists of, and how far it is."""

from rich.console import Console
from rich.table import Table

from coopnet import files, store, study
from coopnet.errors import CoopNetError
from coopnet.store import Store
from coopnet.study import Run, Study
from coopnet.workspace import Workspace


def runs(workspace: Workspace, name: str) -> None:
    """Print a table of all runs: parents, state, key."""
    plan = study.load(workspace.root, name)
    entries = Store(store.default_place(workspace.root))
    table = Table(title=f"Study {name}: {len(plan.runs)} runs", title_justify="left")
    for column in ("run", "parents", "state", "key"):
        table.add_column(column, no_wrap=True)
    for run in plan.runs.values():
        table.add_row(run.name, " ".join(p.name for p in run.parents), state(workspace, plan, run, entries), run.key)
    Console(soft_wrap=True).print(table)


def state(workspace: Workspace, plan: Study, run: Run, entries: Store) -> str:
    """`finished`, `in the store`, `resumable at epoch e of n`, `stale` (made with other parameters) or `missing`."""
    record = workspace.run(plan, run) / "run.json"
    made = record.is_file()
    if made:
        try:
            if files.read_json(record).get("key") == run.key:
                return "finished"
        except CoopNetError:
            pass  # a damaged record is as stale as a wrong one
    if entries.finished(run.key):
        return "in the store"
    saved = entries.unfinished(run.key) / "state.json"
    if saved.is_file():
        return f"resumable at epoch {files.read_json(saved)['facts']['epoch']} of {run.row.training.epochs}"
    return "stale" if made else "missing"
