"""A synthetic study with known numbers, in the files that real runs leave behind."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.reporting.runs import RunFolder, StudyInfo

IMAGES = 10_000
EPOCHS, TUNING = 20, 7


@dataclass(frozen=True)
class Row:
    """One experiment: `top1` is the final ensemble accuracy of seed 0; each further seed adds 0.5 points."""

    name: str
    about: str
    branches: int
    top1: float
    start: str = "random"
    parent: str | None = None
    gate: str = "learned"


ROWS = (
    Row("baseline", "The plain ResNet: one branch, no gate, cross-entropy only.", 1, 44.0, gate="none"),
    Row("one1", "The published one-branch model: B = 1 through the ONE code.", 1, 44.4),
    Row("one3", "ONE with three branches.", 3, 47.0),
    Row("one5", "ONE with five branches.", 5, 48.1),
    Row("one3_continued", "The control: one3 trained on, no growth.", 3, 47.3, "continue", "one3"),
    Row("one3_to_5_zero_pad", "Grown to five: the published transfer code.", 5, 47.2, "zero_pad", "one3"),
    Row("one3_to_5_zero_output", "Grown to five: the published proof.", 5, 47.1, "zero_output", "one3"),
    Row("one3_to_5_masked", "Grown to five: new branches switched off first.", 5, 47.9, "masked", "one3"),
    Row("one3_to_5_split", "Grown to five: copies of branches 1 and 2.", 5, 47.8, "split", "one3"),
)
CHANGED = {"continue": 0, "zero_pad": 812, "zero_output": 0, "masked": 0, "split": 0}
"""Predictions that differ from the parent's at step 0, for seed 0; 10 more for each further seed where not 0."""
DIFFERENCE = {"continue": 0.0, "zero_pad": 4.2, "zero_output": 5.5, "masked": 0.0, "split": 3.8e-6}
ECE_SHIFT = {"continue": 0.0, "zero_pad": 6.5, "zero_output": 8.0, "masked": 0.0, "split": 0.0}
LARGEST_LOGIT = 20.0


def write_study(
    root: Path, seeds: Sequence[int] = (0, 1), title: str = "A synthetic study", rows: Sequence[Row] = ROWS
) -> tuple[list[RunFolder], StudyInfo]:
    """Write every run's files under `root` and describe the study."""
    runs = []
    for row in rows:
        for seed in seeds:
            folder = root / row.name / f"seed{seed}"
            _write_run(folder, row, seed)
            runs.append(RunFolder(row.name, seed, folder))
    experiments = [
        {
            "name": row.name,
            "about": row.about,
            "row": resolved(row),
            "seeds": list(seeds),
            "parents": [{"experiment": row.parent}] if row.parent else [],
        }
        for row in rows
    ]
    description = "ResNet-8 on CIFAR-100 at reduced length: three branches grown to five, in four ways."
    return runs, StudyInfo("mini", title, description, 1, "cpu", experiments)


def top1(name: str, seed: int) -> float:
    """Final ensemble top-1 (%)."""
    return next(row.top1 for row in ROWS if row.name == name) + 0.5 * seed


def resolved(row: Row) -> dict[str, Any]:
    """All settings of a row."""
    return {
        "data": {
            "dataset": "cifar100",
            "validation": 0,
            "split_seed": 0,
            "training_subset": 12_000,
            "augmentation": "crop_flip",
            "normalization": "dataset",
        },
        "model": {
            "family": "cifar_resnet",
            "depth": 8,
            "block": "basic",
            "width": 16,
            "branches": row.branches,
            "gate": row.gate,
        },
        "training": {
            "epochs": TUNING if row.parent else EPOCHS,
            "batch_size": 128,
            "optimizer": {"kind": "sgd", "lr": 0.01 if row.parent else 0.1, "momentum": 0.9, "weight_decay": 1e-4},
            "schedule": {"milestones": [4] if row.parent else [10, 15], "gamma": 0.1},
            "selection": "last",
            "precision": "fp32",
        },
        "start": {"kind": row.start} | ({"donors": [1, 2], "noise": 0.0} if row.start == "split" else {}),
    }


def _block(row: Row, accuracy: float, ece: float) -> dict[str, Any]:
    """Branch b is 1 + 0.2·(b − 1) points behind the ensemble; a single branch is the ensemble."""
    behind = [1 + 0.2 * b if row.branches > 1 else 0.0 for b in range(row.branches)]

    def scores(value: float, gate: float | None = None) -> dict[str, float]:
        numbers = {"top1": round(value, 2), "top5": round(value + 28, 2), "nll": round(4 - value / 25, 4), "ece": ece}
        return numbers if gate is None else numbers | {"gate": gate}

    branches = [scores(accuracy - gap, 1 / row.branches) for gap in behind]
    return {"images": IMAGES, "ensemble": scores(accuracy), "branches": branches}


def _metrics(row: Row, seed: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {"final": {"test": _block(row, row.top1 + 0.5 * seed, 2.5)}}
    if row.parent:
        parent = _block(row, top1(row.parent, seed), 2.0 + 0.1 * seed)
        changed = CHANGED[row.start] + (10 * seed if CHANGED[row.start] else 0)
        versus = {
            "changed_predictions": changed,
            "largest_logit_difference": DIFFERENCE[row.start],
            "largest_logit": LARGEST_LOGIT,
            "parent": parent["ensemble"],
        }
        block = _block(row, top1(row.parent, seed) - changed / 1000, 2.0 + 0.1 * seed + ECE_SHIFT[row.start])
        final = metrics["final"]["test"] | {"versus_parent": versus}
        metrics = {"final": {"test": final}, "step0": {"test": block | {"versus_parent": versus}}}
    return metrics


def _history(row: Row, seed: int) -> list[dict[str, Any]]:
    final, lines = row.top1 + 0.5 * seed, []
    epochs = TUNING if row.parent else EPOCHS
    for epoch in range(epochs):
        left = 1 - (epoch + 1) / epochs
        wiggle = 0.8 * left * math.sin(3.1 * epoch + seed + len(row.name))
        accuracy = final - (1.8 if row.parent else 34) * left**2 + wiggle
        alpha: float | str = ""
        if row.start == "masked":
            alpha = min(1.0, max(0.0, ((epoch + 1) / epochs - 0.4) / 0.2))
        line: dict[str, Any] = {"epoch": epoch, "lr": 0.1, "rampup": 1.0, "prior_alpha": alpha}
        for split, shift in (("train", 2.0), ("test", 0.0)):
            line |= {f"{split}_loss": 5 * left + 3, f"{split}_cross_entropy": 4 * left + 2.5, f"{split}_kl": 0.5}
            for score, more in (("top1", 0.0), ("top5", 28.0)):
                for b in range(row.branches):
                    gap = 1 + 0.2 * b if row.branches > 1 else 0.0
                    line[f"{split}_{score}_branch{b + 1}"] = round(accuracy + shift + more - gap, 2)
                line[f"{split}_{score}_ensemble"] = round(accuracy + shift + more, 2)
        lines.append(line)
    return lines


def _write_run(folder: Path, row: Row, seed: int) -> None:
    history = _history(row, seed)
    files.write_rows(folder / "history.csv", history)
    files.write_json(folder / "metrics.json", {"key": key(row.name, seed)} | _metrics(row, seed))
    times = [
        {"epoch": e, "train_seconds": 10.5, "evaluation_seconds": 1.5, "images_per_second": 950.0}
        for e in range(len(history))
    ]
    files.write_rows(folder / "timing.csv", times)
    record = {
        "key": key(row.name, seed),
        "seed": seed,
        "row": resolved(row),
        "threads": 1,
        "parents": [{"key": key(row.parent, seed), "digest": "0" * 64}] if row.parent else [],
        "data": {"dataset": "cifar100", "digest": {"train": "ab" * 32, "test": "cd" * 32}},
        "parameters": 20_000 + 55_000 * row.branches,
        "code": {"version": "0.1.0", "numerics": "ef" * 32, "commit": "12" * 20, "modified": False},
        "libraries": {"python": "3.11.9", "torch": "2.11.0+cpu", "torchvision": "0.26.0", "numpy": "2.4.6"},
        "device": {"type": "cpu", "name": "AMD EPYC", "capability": "AVX2"},
        "selected_epoch": len(history) - 1,
        "files": {"history.csv": files.sha256(folder / "history.csv")},
    }
    files.write_json(folder / "run.json", record)


def key(experiment: str, seed: int) -> str:
    """A run's key."""
    return hashlib.sha256(f"{experiment} {seed}".encode()).hexdigest()[:32]
