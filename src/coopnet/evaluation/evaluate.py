"""The metrics of one run: from its saved logits and its parents' to three files in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.evaluation.metrics import Saved, measure, versus, versus_parents, versus_teacher
from coopnet.evaluation.outcomes import SCORES, outcomes, pack, pack_each
from coopnet.evaluation.voting import MOST, VOTES, best_smaller, vote, votes
from coopnet.files.errors import CoopNetError
from coopnet.runs import records
from coopnet.runs.workspace import EVALUATED
from coopnet.study import Run


def evaluate(run: Run, folder: Path, parent_folders: Sequence[Path]) -> None:
    """Write `votes.csv`, `outcomes.safetensors` and `metrics.json` of a run into its folder.

    Args:
        run: the planned run.
        folder: folder of the run.
        parent_folders: folders of its parents, in their order.

    Raises:
        CoopNetError: logits are missing, damaged or not finite, or a run was made with other parameters.
    """
    networks = read_logits(folder, run)
    parents = [read_logits(folder, parent) for folder, parent in zip(parent_folders, run.parents, strict=True)]
    metrics: dict[str, Any] = {"key": run.key, "final": {}}
    for split, network in networks.items():
        metrics["final"][split] = measure(network) | compare(run, network, [parent[split] for parent in parents])
    bits = {f"final/{model}": packed for model, packed in pack(outcomes(networks["test"])).items()}
    rows = {split: votes(networks[split]) for split in metrics["final"]}
    branches = networks["test"].branches.shape[1]
    if "validation" in rows and 1 < branches <= MOST:
        metrics["picked"] = {score: best_smaller(rows["validation"], branches, score) for score in SCORES}
        cast = {score: vote(networks["test"], **chosen) for score, chosen in metrics["picked"].items()}
        bits["final/picked"] = pack_each(cast)
    write_votes(folder / "votes.csv", rows)
    files.write_tensors(folder / "outcomes.safetensors", bits)
    metrics["files"] = {name: files.sha256(folder / name) for name in EVALUATED if name != "metrics.json"}
    files.write_json(folder / "metrics.json", metrics)  # last, because its presence means that the run is evaluated


def compare(run: Run, network: Saved, parents: Sequence[Saved]) -> dict[str, Any]:
    """Compare a network with its parents on the same images; the key names the relation (`versus_parent`, …)."""
    if not parents:
        return {}
    if run.row.start.kind == "random":  # no weights from its parent, so it is its teacher
        return {"versus_teacher": versus_teacher(network, parents[0])}
    if len(parents) == 1:
        return {"versus_parent": versus(network, parents[0])}
    return {"versus_parents": versus_parents(parents)}


def write_votes(path: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the votes of each split; for a network of one branch, which has none, only the header."""
    rows = [{"split": split, **row} for split in sorted(found) for row in found[split]]
    if rows:
        files.write_rows(path, rows)
    else:
        files.write_text(path, ",".join(VOTES) + "\n")


def read_logits(folder: Path, run: Run) -> dict[str, Saved]:
    """Saved logits of a planned run by split, `test` and `validation`, checked against the run's record.

    Raises:
        CoopNetError: record or logits are missing or damaged, or the run was made with other parameters.
    """
    record = records.read_run(folder, run)
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
