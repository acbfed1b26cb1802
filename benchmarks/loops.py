"""The compared loops, with a common interface.

The reference is imported when it runs, because its libraries need memory that ours does not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.watch import Laps
from benchmarks.workload import Arrays, architecture
from coopnet.data.augment import Images, draw_epoch
from coopnet.data.datasets import DATASETS
from coopnet.data.normalization import normalization
from coopnet.networks.loss import Loss, Teaching, rampup
from coopnet.networks.network import Outputs, build
from coopnet.networks.transfer import TrainedNetwork
from coopnet.study.settings import Experiment, OnTheFly
from coopnet.training.engine import Meters, batches, make_deterministic, train_step
from coopnet.training.optimizer import Optimizer
from coopnet.training.schedule import steps_per_epoch
from coopnet.training.trainer import Progress, Task, train

SEED = 0


class Nowhere:
    """Saved state of a run that will not be resumed."""

    def load(self) -> None:
        """Nothing was saved."""

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Discard the state."""

    def flush(self) -> None:
        """Do nothing."""


def constants(row: Experiment) -> dict[str, list[float]]:
    """The normalisation constants of a row."""
    return normalization(DATASETS[row.data.dataset], row.data.normalization)


def task(row: Experiment, arrays: Arrays, device: torch.device, *, seed: int = SEED, weights: int = SEED) -> Task:
    """The input of our trainer for a row, with everything on the device, as in `coopnet train`.

    `seed` is the seed of order and augmentation, `weights` that of the network.
    """
    network = build(architecture(row), weights).to(device).to(memory_format=torch.channels_last)
    mean, std = constants(row)["mean"], constants(row)["std"]
    names = {"train": "training", "test": "test"}
    splits = {names[name]: Images(*arrays[name], mean, std, device) for name in arrays}
    augment = row.data.augmentation == "crop_flip"
    return Task(TrainedNetwork(network, {}), row.training, splits, augment=augment, seed=seed)


def ours(row: Experiment, arrays: Arrays, device: torch.device, progress: Progress) -> None:
    """Our trainer."""
    train(task(row, arrays, device), Nowhere(), progress, lambda: None)


def plain(row: Experiment, arrays: Arrays, device: torch.device, progress: Progress) -> None:
    """The reference, with the same initial weights."""
    from benchmarks import reference

    network = build(architecture(row), SEED).to(device)
    augment = row.data.augmentation == "crop_flip"
    reference.train(network, row.training, arrays, constants(row), augment=augment, seed=SEED, progress=progress)


LOOPS: dict[str, Callable[[Experiment, Arrays, torch.device, Progress], None]] = {
    "ours": ours,
    "reference": plain,
    "free": ours,
}
"""Loops by name; `free` is ours with algorithms that may differ from run to run."""


def switch(loop: str, threads: int) -> None:
    """Configure PyTorch for one of the loops: ours is deterministic, the others use the fastest algorithms.

    Otherwise the reference has PyTorch's defaults, so on a GPU its convolutions compute in TF32.
    """
    make_deterministic(threads)
    if loop != "ours":
        torch.set_deterministic_debug_mode("default")
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = loop == "reference"


def precision(loop: str, row: Experiment, device: torch.device) -> str:
    """Precision of a loop's products: `bf16`, `fp32`, or `tf32`, PyTorch's default for convolutions on a GPU."""
    if loop != "reference":
        return row.training.precision
    return "tf32" if device.type == "cuda" else "fp32"


class _Optimizer(Optimizer):
    """Reports its calls, which mark the end of forward and backward pass."""

    laps: Laps

    def clear_gradients(self) -> None:
        self.laps.lap("forward")
        super().clear_gradients()

    def step(self) -> None:
        self.laps.lap("backward")
        super().step()
        self.laps.lap("optimiser")


class _Meters(Meters):
    """Reports the end of its update."""

    laps: Laps

    def add(self, outputs: Outputs, labels: Tensor, losses: Loss) -> None:
        super().add(outputs, labels, losses)
        self.laps.lap("metrics")


def our_laps(row: Experiment, arrays: Arrays, device: torch.device, laps: Laps) -> None:
    """An epoch of our training steps with a timer; each step is the trainer's own."""
    todo, training = task(row, arrays, device), row.training
    network, split = todo.initial.network.train(), todo.splits["training"]
    optimizer = _Optimizer(network, training.optimizer, {})
    meters = _Meters(network.architecture.branches, device)
    optimizer.laps = meters.laps = laps
    assert isinstance(training.distillation, OnTheFly)
    weight = rampup(0, training.distillation.rampup)
    gated = network.architecture.gate != "none"
    teaching = Teaching("on_the_fly", gated, training.distillation.temperature, weight)
    steps = steps_per_epoch(len(split), training.batch_size)
    laps.begin(0, 1, len(split), 0)
    for batch in batches(draw_epoch(len(split), SEED, 0, device), training.batch_size, 0, steps):
        images = split.augmented(*batch) if todo.augment else split.plain(batch.order)
        labels = split.labels[batch.order]
        laps.lap("data")
        train_step(network, optimizer, images, labels, teaching, training.precision, meters)
        laps.advance(len(labels))


def reference_laps(row: Experiment, arrays: Arrays, device: torch.device, laps: Laps) -> None:
    """An epoch of the reference; `data` is the time spent waiting for its workers."""
    from benchmarks import reference

    network = build(architecture(row), SEED).to(device)
    augment = row.data.augmentation == "crop_flip"
    reference.train(
        network, row.training, arrays, constants(row), augment=augment, seed=SEED, progress=laps, lap=laps.lap
    )


LAPS: dict[str, Callable[[Experiment, Arrays, torch.device, Laps], None]] = {
    "ours": our_laps,
    "reference": reference_laps,
}
