"""The cost of everything after training: a study of synthetic logits is evaluated, decided and reported.

    python -m benchmarks.evaluation [--experiments 30] [--seeds 3] [--images 10000] [--epochs 300]

The rows are those of `params.yaml` with three or five branches on CIFAR-100, and their ancestors. Their logits are
random, so the accuracies mean nothing. The files have the form and the size of the full study's, and the code that
reads them is the real one. Prints seconds of wall clock and processor, and peak memory, by stage.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from coopnet import files, study
from coopnet.runs.estimate import cores
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

ROOT = Path(__file__).parent.parent
NAME = "synthetic"
CLASSES = 100


def main() -> None:
    """Make the study in a temporary folder, run each stage once, and print its cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("experiments", 30), ("seeds", 3), ("images", 10_000), ("epochs", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    # Snakemake does the same for jobs with one thread. NumPy is already loaded, so its limit has to be set as well.
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1):
        workspace = Workspace(Path(folder))
        plan = prepare(workspace.root, asked.experiments, asked.seeds, asked.epochs)
        for run in plan.everything():
            write(workspace, plan, run, asked.images)
        measured = [measure(name, stage) for name, stage in stages(workspace, plan).items()]
    whole = {key: round(sum(one[key] for one in measured), 2) for key in ("seconds", "cpu_seconds")}
    size = {"experiments": len(plan.experiments), "runs": len(plan.runs), "images": asked.images}
    print(json.dumps(size | {"stages": measured, "total": whole | {"peak_mib": measured[-1]["peak_mib"]}}, indent=2))


def stages(workspace: Workspace, plan: Study) -> dict[str, Callable[[], None]]:
    """The stages after training, in order; each imports what it needs when it begins, and its time includes that."""

    def evaluate() -> None:
        with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
            for _ in pool.map(_evaluate, repeat(workspace.root), plan.everything()):
                pass

    def tables() -> None:
        from coopnet.commands import report as command

        command.tables(workspace, NAME)

    def claims() -> None:
        from coopnet.commands import claims as command

        command.claims(workspace, NAME)

    def report() -> None:
        from coopnet.commands import report as command

        command.report(workspace, NAME)

    return {"evaluate": evaluate, "tables": tables, "claims": claims, "report": report}


def _evaluate(root: Path, run: Run) -> None:
    """Evaluate a run in one of several processes: one per core, like the jobs of the workflow."""
    from coopnet.commands import evaluate as command

    command.evaluate(Workspace(root), NAME, run.experiment, run.seed, at_transfer=run.at_transfer)


def measure(name: str, stage: Callable[[], None]) -> dict[str, Any]:
    """Run a stage; return its seconds, and the peak memory of any single process until its end."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])  # of this process and its children
    stage()
    peaks = [resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "stage": name,
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(sum(os.times()[:4]) - cpu, 2),
        "peak_mib": max(peaks) // 1024,  # Linux counts it in KiB
    }


def prepare(root: Path, experiments: int, seeds: int, epochs: int) -> Study:
    """A workspace with the project's claims and figures, and a study of this many experiments."""
    for name in ("params.yaml", "claims.yaml", "figures.yaml"):
        shutil.copy(ROOT / name, root)
    only = choose(study.load(ROOT), experiments)
    whole = study.read_yaml(ROOT / "params.yaml")["defaults"]["training"]["epochs"]
    overlay = {"device": "cpu", "seeds": list(range(seeds)), "only": only, "time_scale": epochs / whole}
    files.write_text(root / "studies" / f"{NAME}.yaml", yaml.safe_dump(overlay))
    return study.load(root, NAME)


def choose(plan: Study, count: int) -> list[str]:
    """Choose this many experiments; each has at most one parent, which is included."""
    chosen: list[str] = []
    for name, row in plan.experiments.items():
        wanted = row.data.dataset == "cifar100" and row.model.branches in (3, 5) and len(row.parents) < 2
        new = [one for one in (*row.parents, name) if one not in chosen]
        if wanted and len(chosen) + len(new) <= count and not any(plan.experiments[one].parents for one in new[:-1]):
            chosen += new
    return chosen


def write(workspace: Workspace, plan: Study, run: Run, images: int) -> None:
    """Write the files of a finished run that later stages read."""
    place = targets(workspace, plan, run)
    generator = np.random.default_rng([*run.key.encode()])
    splits = {"test": images} | ({"validation": run.row.data.validation} if run.row.data.validation else {})
    tensors: dict[str, np.ndarray] = {}
    for split, count in splits.items():
        tensors |= {f"{split}/{name}": array for name, array in logits(run, split, count, generator).items()}
    files.write_tensors(place["logits.safetensors"], tensors)
    files.write_rows(place["history.csv"], [epoch(run, number, splits) for number in range(run.row.training.epochs)])
    timing = {"train_seconds": 1.0, "evaluation_seconds": 1.0, "images_per_second": 1.0}
    files.write_rows(place["timing.csv"], [{"epoch": e} | timing for e in range(run.row.training.epochs)])
    record = {
        "key": run.key,
        "seed": run.seed,
        "threads": run.threads,
        "row": run.row.decisive(),
        "data": {"dataset": run.row.data.dataset, "digest": {}},
        "parameters": 1,
        "device": {"type": "cpu", "name": "none"},
        "libraries": {},
        "code": {"version": "none"},
        "parents": [{"key": parent.key} for parent in run.parents],
        "files": {name: files.sha256(place[name]) for name in ("logits.safetensors", "history.csv")},
    }
    files.write_json(place["run.json"], files.sealed(record))


def logits(run: Run, split: str, images: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Random logits with a higher true class in all branches, [N, B, C], a gate [N, B] and labels [N]."""
    branches = run.row.model.branches
    # All runs have the same images; grown networks are compared with their parents.
    labels = np.random.default_rng(images).integers(0, CLASSES, images)
    shared = generator.normal(0, 2, (images, 1, CLASSES)) + generator.normal(0, 1, (images, branches, CLASSES))
    shared[np.arange(images), :, labels] += 6
    gate = generator.dirichlet(np.full(branches, 5.0), images)
    return {"branches": shared.astype(np.float32), "gate": gate.astype(np.float32), "labels": labels.astype(np.int64)}


def epoch(run: Run, number: int, splits: dict[str, int]) -> dict[str, Any]:
    """A row of a history."""
    row: dict[str, Any] = {"epoch": number, "lr": 0.1, "rampup": 1.0}
    models = [*(f"branch{b + 1}" for b in range(run.row.model.branches)), "ensemble"]
    for split in ("train", *splits):
        row |= {f"{split}_{loss}": 1 / (1 + number) for loss in ("loss", "cross_entropy", "kl")}
        for score in ("top1", "top5"):
            row |= {f"{split}_{score}_{model}": 90 * number / (number + 10) for model in models}
    return row


if __name__ == "__main__":
    main()
