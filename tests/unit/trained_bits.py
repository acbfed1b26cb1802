"""Train a run of every kind with whichever version of the package is on the path; print its key and its files' digests.

Run as a script in a folder with `params.yaml`, `studies/` and prepared digits: `python trained_bits.py STUDY`. It uses
nothing but what every version has: the plan of runs, and the command line.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coopnet import cli, study

FILES = ("model.safetensors", "optimizer.safetensors", "history.csv", "logits.safetensors")


def kind(run: Any) -> tuple[Any, ...]:
    """What takes another path through the code."""
    row = run.row
    training, model = row.training, row.model
    ways = (row.start.kind, getattr(row.start, "trunk", None), getattr(row.start, "reestimate", None))
    learning = (training.distillation.kind, training.optimizer.kind, training.selection, training.epochs > 0)
    rates = training.schedule.gradient_ratio is not None
    return *ways, *learning, rates, model.family, model.block, model.gate, model.trunk, row.data.augmentation


def of_every_kind(plan: Any) -> Iterator[Any]:
    """The first run of each kind, parents first."""
    first = {kind(run): run for run in reversed(list(plan.runs.values()))}
    done: set[str] = set()

    def with_parents(run: Any) -> Iterator[Any]:
        for parent in run.parents:
            yield from with_parents(parent)
        if run.name not in done:
            done.add(run.name)
            yield run

    for run in first.values():
        yield from with_parents(run)


def train(name: str, run: Any) -> None:
    """Train a run as a user would."""
    sys.argv = ["coopnet", "train", name, run.experiment, str(run.seed)]
    try:
        cli.main()
    except SystemExit as done:
        if done.code:
            sys.exit(f"{run.name} was not trained")


def digest(name: str, run: Any, file: str) -> str:
    """SHA-256 of the file of a run, wherever this version puts it."""
    (path,) = Path().glob(f"[!.]*/**/{name}/{run.experiment}/seed{run.seed}/{file}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(name: str) -> None:
    """Train and print."""
    logging.basicConfig(level=logging.WARNING)
    bits = {}
    for run in of_every_kind(study.load(Path(), name)):
        train(name, run)
        bits[run.name] = {"key": run.key, "files": {file: digest(name, run, file) for file in FILES}}
    print(json.dumps(bits))


if __name__ == "__main__":
    main(*sys.argv[1:])
