"""The state of a planned run, in words."""

from collections.abc import Mapping
from typing import Any

from coopnet import files, study
from coopnet.files.digests import Digests
from coopnet.runs import records
from coopnet.runs.failures import Unavailable
from coopnet.runs.records import RECORD
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, numerics


def state(
    workspace: Workspace,
    plan: Study,
    run: Run,
    entries: Store,
    digests: Digests,
    unavailable: Unavailable | None = None,
) -> str:
    """State of a run, in words. `unavailable` is its failure, or that of an ancestor.

    Returns:
        `finished`; `damaged: …`; `incomplete: …`; `in the store`; `failed: …`; `waiting for` a failed run;
        `resumable at epoch e of n`; `stale: …`; or `missing`.
    """
    record = workspace.run(plan, run) / RECORD
    problem = records.check_run(workspace, plan, run, digests)
    if problem is None:
        return "finished"
    stored = "; the store has it" if entries.finished(run.key) else ""
    if problem.kind == "damaged":
        return f"damaged: {problem.text}{stored}"
    if files.read_field(record, "key") == run.key:
        return f"stale: {problem.text}" if problem.kind == "stale" else f"incomplete: {problem.text}{stored}"
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
