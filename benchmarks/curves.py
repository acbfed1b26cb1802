"""Whether both loops learn alike: their curves, seed by seed, with the settings of a row of a study.

The rule: three figures of each seed are compared: the training loss of the last epoch, the mean training loss over all
epochs, and the final top-1 on the test images. With standard deviations s over n seeds, the standard error of a
difference of means is √(s²/n of ours + s²/n of the reference's). Two means agree if they differ by at most 2 standard
errors. `within_spread` says that both losses agree. The two loops start from the same weights for the same seed. They
differ in the order and the augmentation of the images, in memory layout and, if ours has another one, in precision.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks import reference
from benchmarks.loops import Nowhere, constants, switch, task
from benchmarks.workload import Arrays, architecture
from coopnet.data.seeding import derive
from coopnet.data.splits import split
from coopnet.files.errors import CoopNetError
from coopnet.networks.network import build
from coopnet.study import Run
from coopnet.study.settings import Training
from coopnet.training import trainer
from coopnet.training.trainer import Row

LOSS, TOP1 = "train_loss", "test_top1_ensemble"
ERRORS = 2.0
"""Standard errors by which two means may differ and still agree."""


class Watcher:
    """Reports each epoch."""

    def __init__(self, name: str, say: Callable[[str], None]):
        self.name, self.say, self.epochs = name, say, 0

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Store the number of epochs."""
        self.epochs = epochs

    def advance(self, images: int) -> None:
        """Do nothing."""

    def end(self, row: Row, timing: Row) -> None:
        """Report an epoch."""
        self.say(f"{self.name}  epoch {int(row['epoch']) + 1}/{self.epochs}  loss {row[LOSS]:.3f}")


def check(run: Run) -> None:
    """Refuse a row that the reference cannot train.

    Raises:
        CoopNetError: it starts from other weights, has an external teacher, needs more than plain SGD, or has a network
            of another library or other data than CIFAR's.
    """
    training = run.row.training
    if (
        run.row.start.kind != "random"
        or run.parents
        or training.optimizer.kind != "sgd"
        or training.distillation.kind not in ("on_the_fly", "none")
        or training.schedule.gradient_ratio is not None
        or run.row.model.wrapped
        or run.row.data.dataset not in ("cifar10", "cifar100")
    ):
        raise CoopNetError(
            f"{run.experiment} is not possible with the reference, which trains the study's networks by SGD on CIFAR, "
            "from random weights and without an external teacher; choose a row such as baseline, one3 or one5"
        )


def history(path: Path, run: Run) -> list[Row]:
    """The history of a finished run of our loop.

    Raises:
        CoopNetError: it is missing, or has another number of epochs.
    """
    if not path.is_file():
        raise CoopNetError(f"{path} is missing; train {run.name} first")
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(handle)]
    if len(rows) != run.row.training.epochs:
        raise CoopNetError(f"{path} has {len(rows)} epochs, but {run.experiment} has {run.row.training.epochs}")
    return rows


def train(run: Run, arrays: Arrays, device: torch.device, threads: int, say: Callable[[str], None]) -> list[Row]:
    """Train the reference with the settings and the initial weights of a run."""
    switch("reference", threads)
    row = run.row
    return reference.train(
        build(architecture(row), derive(run.seed, "weights")).to(device),
        tested_last(row.training),
        parts(run, arrays),
        constants(row),
        augment=row.data.augmentation == "crop_flip",
        seed=run.seed,
        progress=Watcher(f"reference {run.name}", say),
    )


def train_ours(
    run: Run, precision: str, arrays: Arrays, device: torch.device, threads: int, say: Callable[[str], None]
) -> list[Row]:
    """Train our loop with the settings of a run, but in this precision."""
    switch("ours", threads)
    training = tested_last(run.row.training).model_copy(update={"precision": precision})
    row = run.row.model_copy(update={"training": training})
    todo = task(row, parts(run, arrays), device, seed=run.seed, weights=derive(run.seed, "weights"))
    return trainer.train(todo, Nowhere(), Watcher(f"ours in {precision} {run.name}", say), lambda: None).history


def tested_last(training: Training) -> Training:
    """The settings, with an evaluation on test images only after the last epoch."""
    return training.model_copy(update={"test_every": training.epochs})


def parts(run: Run, arrays: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The training and test images of a run, from those of its dataset."""
    data, (images, labels) = run.row.data, arrays["train"]
    chosen = split(labels, validation=data.validation, subset=data.training_subset, seed=data.split_seed)
    return {"train": (images[chosen.training], labels[chosen.training]), "test": arrays["test"]}


def compare(ours: Mapping[int, Sequence[Row]], others: Mapping[int, Sequence[Row]]) -> dict[str, Any]:
    """Compare histories of both loops, by seed, with the rule above.

    Raises:
        CoopNetError: there is only one seed, which has no spread.
    """
    if len(ours) < 2:
        raise CoopNetError("one seed has no standard deviation; give the experiment at least 2 seeds")
    comparisons = {
        "last_epoch_loss": _compare(ours, others, partial(_loss, -1)),
        "mean_loss": _compare(ours, others, lambda rows: fmean(row[LOSS] for row in rows)),
        "test_top1": _compare(ours, others, lambda rows: rows[-1][TOP1]),
    }
    epochs = len(next(iter(ours.values())))
    return {
        "seeds": sorted(ours),
        "comparisons": comparisons,
        "within_spread": all(comparisons[name]["within"] for name in ("last_epoch_loss", "mean_loss")),
        "epochs": [_compare(ours, others, partial(_loss, epoch)) for epoch in range(epochs)],
    }


def _loss(epoch: int, rows: Sequence[Row]) -> float:
    return rows[epoch][LOSS]


def _compare(
    ours: Mapping[int, Sequence[Row]],
    others: Mapping[int, Sequence[Row]],
    figure: Callable[[Sequence[Row]], float],
) -> dict[str, Any]:
    """Compare one figure of each seed: means, standard deviations, their difference and its standard error."""
    compared: dict[str, Any] = {}
    for loop, histories in (("ours", ours), ("reference", others)):
        values = [figure(histories[seed]) for seed in sorted(histories)]
        compared[loop] = {"values": values, "mean": fmean(values), "std": stdev(values)}
    one, other = compared["ours"], compared["reference"]
    compared["difference"] = one["mean"] - other["mean"]
    compared["standard_error"] = math.sqrt(one["std"] ** 2 / len(ours) + other["std"] ** 2 / len(others))
    compared["within"] = abs(compared["difference"]) <= ERRORS * compared["standard_error"]
    return compared
