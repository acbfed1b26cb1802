"""`coopnet evaluate`: the metrics of one run, from its saved logits and its parent's."""

from pathlib import Path
from typing import Any

from coopnet import files, study
from coopnet.errors import CoopNetError
from coopnet.evaluation.metrics import Saved, measure, versus
from coopnet.study import Run
from coopnet.workspace import Workspace


def evaluate(workspace: Workspace, name: str, experiment: str, seed: int) -> None:
    """Write `metrics.json` of a run.

    Raises:
        CoopNetError: logits are missing or damaged, or the run was made with other parameters.
    """
    plan = study.load(workspace.root, name)
    run = plan.run(experiment, seed)
    folder = workspace.run(plan, run)
    record = checked_record(folder, run)
    saved = read_logits(folder, record)
    parent = None
    if len(run.parents) == 1:
        origin = workspace.run(plan, run.parents[0])
        parent = read_logits(origin, checked_record(origin, run.parents[0]))
    metrics: dict[str, Any] = {"key": run.key}
    for name, said in saved.items():
        stage, _, split = name.rpartition("_")
        measured = measure(said)
        if parent is not None:
            measured["versus_parent"] = versus(said, parent[split])
        metrics.setdefault(stage or "final", {})[split] = measured
    files.write_json(folder / "metrics.json", metrics)


def checked_record(folder: Path, run: Run) -> dict[str, Any]:
    """The record of a run, if it is the run that the plan names.

    Raises:
        CoopNetError: it is missing, or the record of another key.
    """
    record = files.read_json(folder / "run.json")
    if record.get("key") != run.key:
        raise CoopNetError(
            f"{folder} was made with other parameters or other source than the plan has now for {run.name}; "
            f"make it again (`coopnet train`, or the workflow)"
        )
    return record


def read_logits(folder: Path, record: dict[str, Any]) -> dict[str, Saved]:
    """Saved logits by split (`test`, `validation`, `step0_test`, …), checked against the run's record."""
    path = folder / "logits.safetensors"
    if not path.is_file():
        raise CoopNetError(f"{path} is missing: make the run again (`coopnet train`, or the workflow)")
    if files.sha256(path) != record["files"].get(path.name):
        raise CoopNetError(f"{path} is not the file that {folder / 'run.json'} names; delete it and make the run again")
    tensors = files.read_tensors(path)
    return {
        split: Saved(tensors[f"{split}/branches"], tensors[f"{split}/gate"], tensors[f"{split}/labels"].astype(int))
        for split in sorted({name.partition("/")[0] for name in tensors})
    }
