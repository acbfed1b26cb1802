"""Train a run of every kind with whichever version of the package is on the path; print its key and its files' digests.

Run as a script in a folder with `params.yaml`, `studies/` and prepared digits: `python trained_bits.py STUDY`.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coopnet import study
from coopnet.commands import train
from coopnet.files import sha256
from coopnet.workspace import Workspace


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


def main(name: str) -> None:
    """Train and print."""
    logging.basicConfig(level=logging.WARNING)
    workspace = Workspace(Path())
    plan = study.load(workspace.root, name)
    bits = {}
    for run in of_every_kind(plan):
        if train.train(workspace, name, run.experiment, run.seed, None, None):
            sys.exit(f"{run.name} was not trained")
        weights, results = workspace.checkpoint(plan, run), workspace.run(plan, run)
        files = [weights / "model.safetensors", weights / "optimizer.safetensors", results / "history.csv"]
        digests = {path.name: sha256(path) for path in [*files, results / "logits.safetensors"]}
        bits[run.name] = {"key": run.key, "files": digests}
    json.dump(bits, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
