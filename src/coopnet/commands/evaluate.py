"""`coopnet evaluate`: the metrics of one run, from its saved logits and its parents'."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopnet import files, study
from coopnet.evaluation.metrics import Saved, measure, versus, versus_parents, versus_teacher
from coopnet.evaluation.outcomes import SCORES, outcomes, pack, pack_each
from coopnet.evaluation.voting import MOST, VOTES, best_smaller, vote, votes
from coopnet.files.errors import CoopNetError
from coopnet.runs import records, steps
from coopnet.runs.workspace import EVALUATED, Workspace
from coopnet.study import Run, Study


def evaluate(workspace: Workspace, name: str, experiment: str, seed: int, *, at_transfer: bool = False) -> Path:
    """Write `votes.csv`, `outcomes.safetensors` and `metrics.json` of a run, or of the network at its transfer.

    Returns:
        Their folder.

    Raises:
        CoopNetError: logits are missing, damaged or not finite, or the run was made with other parameters.
    """
    plan = study.load(workspace.root, name)
    run = plan.run(experiment, seed)
    if at_transfer:
        if run.transfer is None:
            raise CoopNetError(f"{run.name} begins with no transfer; run `coopnet evaluate` without --at-transfer")
        run = run.transfer
    with records.making(workspace, lambda: steps.evaluate(workspace, plan, run)):
        _evaluate(workspace, plan, run)
    return workspace.run(plan, run)


def _evaluate(workspace: Workspace, plan: Study, run: Run) -> None:
    folder = workspace.run(plan, run)
    saved = logits_of(folder, run)
    parents = [logits_of(workspace.run(plan, parent), parent) for parent in run.parents]
    metrics: dict[str, Any] = {"key": run.key, "final": {}}
    for split, said in saved.items():
        metrics["final"][split] = measure(said) | compare(run, said, [parent[split] for parent in parents])
    bits = {f"final/{model}": packed for model, packed in pack(outcomes(saved["test"])).items()}
    rows = {split: votes(saved[split]) for split in metrics["final"]}
    branches = saved["test"].branches.shape[1]
    if "validation" in rows and 1 < branches <= MOST:
        metrics["picked"] = {score: best_smaller(rows["validation"], branches, score) for score in SCORES}
        cast = {score: vote(saved["test"], **chosen) for score, chosen in metrics["picked"].items()}
        bits["final/picked"] = pack_each(cast)
    write_votes(folder / "votes.csv", rows)
    files.write_tensors(folder / "outcomes.safetensors", bits)
    metrics["files"] = {name: files.sha256(folder / name) for name in EVALUATED if name != "metrics.json"}
    files.write_json(folder / "metrics.json", metrics)  # last: who finds it takes the run for evaluated


def compare(run: Run, said: Saved, parents: Sequence[Saved]) -> dict[str, Any]:
    """Compare a network with its parents on the same images; the key names the relation (`versus_parent`, …)."""
    if not parents:
        return {}
    if run.row.start.kind == "random":  # no weights from its parent, so it is its teacher
        return {"versus_teacher": versus_teacher(said, parents[0])}
    if len(parents) == 1:
        return {"versus_parent": versus(said, parents[0])}
    return {"versus_parents": versus_parents(parents)}


def write_votes(path: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the votes of each split; a network of one branch has none, and leaves the header."""
    rows = [{"split": split, **row} for split in sorted(found) for row in found[split]]
    if rows:
        files.write_rows(path, rows)
    else:
        files.write_text(path, ",".join(VOTES) + "\n")


def logits_of(folder: Path, run: Run) -> dict[str, Saved]:
    """Saved logits of a planned run by split, checked against its record."""
    return read_logits(folder, records.read_run(folder, run))


def read_logits(folder: Path, record: dict[str, Any]) -> dict[str, Saved]:
    """Saved logits by split, `test` and `validation`, checked against the run's record."""
    path = folder / "logits.safetensors"
    if not path.is_file():
        raise CoopNetError(f"{path} is missing: make the run again (`coopnet train`, or the workflow)")
    if files.sha256(path) != record["files"].get(path.name):
        raise CoopNetError(f"{path} is not the file that {folder / 'run.json'} names; delete it and make the run again")
    tensors = files.read_tensors(path)
    return {
        split: Saved(tensors[f"{split}/branches"], tensors[f"{split}/gate"], tensors[f"{split}/labels"].astype(int))
        for split in ("test", "validation")
        if f"{split}/branches" in tensors
    }
