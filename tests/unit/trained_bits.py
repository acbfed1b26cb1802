"""Train a run of every kind with the version of the package on the path; print its key and its files' digests.

Run as a script in a folder with `params.yaml`, `studies/` and prepared digits: `python trained_bits.py STUDY`. It uses
only features of every version: the plan of runs, and the command line.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.numpy

from coopnet import cli, study

FILES = ("model.safetensors", "optimizer.safetensors", "history.csv", "logits.safetensors")


def kind(run: Any) -> tuple[Any, ...]:
    """The settings that select a path through the code."""
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


def command(*arguments: str) -> None:
    """Run a command of the package in this process."""
    sys.argv = ["coopnet", *arguments]
    try:
        cli.main()
    except SystemExit as done:
        if done.code:
            sys.exit(f"{' '.join(sys.argv)} failed")


def find(name: str, run: Any, file: str) -> Path:
    """The file of a run, wherever this version writes it."""
    (path,) = Path().glob(f"[!.]*/**/{name}/**/{run.experiment}/seed{run.seed}/{file}")
    return path


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of each tensor of a file by its name, or of the file as a whole."""
    if path.suffix != ".safetensors":
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    tensors = safetensors.numpy.load_file(path)
    return {f"{path.name}:{name}": hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}


def made(name: str, run: Any) -> dict[str, str]:
    """Train a run; digests of its files, and of its logits at transfer if there are any."""
    transfer = getattr(run, "transfer", None)
    if transfer is None:
        command("train", name, run.experiment, str(run.seed))
        found = [find(name, run, file) for file in FILES]
        return {key: digest for path in found for key, digest in digests(path).items()}
    command("transfer", name, run.experiment, str(run.seed))
    command("train", name, run.experiment, str(run.seed))
    folder = Path("checkpoints") / name
    final = [folder / run.phase / run.experiment / f"seed{run.seed}" / file for file in FILES]
    first = digests(folder / transfer.phase / run.experiment / f"seed{run.seed}" / "logits.safetensors")
    at_transfer = {key.replace(":", ":step0_"): digest for key, digest in first.items()}
    return {key: digest for path in final for key, digest in digests(path).items()} | at_transfer


def main(name: str) -> None:
    """Train and print."""
    logging.basicConfig(level=logging.WARNING)
    bits = {}
    for run in of_every_kind(study.load(Path(), name)):
        bits[run.name] = {"key": run.key, "files": made(name, run)}
    print(json.dumps(bits))


if __name__ == "__main__":
    main(*sys.argv[1:])
