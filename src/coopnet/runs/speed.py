"""Estimates of the duration of runs: on this machine from measurements, on an H100 from a rule.

Measurements are the runs that this machine finished into its run store. Without such runs, and on request, a few steps
of the trainer on random images are measured.
"""

import contextlib
import csv
import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from coopnet import files
from coopnet.data.datasets import side
from coopnet.files.errors import CoopNetError
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, costs
from coopnet.study.costs import Cost
from coopnet.study.settings import Model

LATEST = 200
"""Number of latest finished runs that are used."""
SECONDS = 5.0
"""Seconds for which a few steps are measured."""

LAUNCHES, LAUNCH = 17, 3e-6
"""Kernels of a training step per convolution, and least number of seconds for each (docs/performance.md)."""
RATE = {"bf16": 1e14, "fp32": 2e13}
"""Operations per second that convolutions reach on an H100: about a tenth of its peak in bf16, a third in fp32."""
RULE = (
    f"{LAUNCHES} kernels of {LAUNCH * 1e6:g} µs for each convolution of a training step, a third of them for a batch "
    f"that is tested, and {RATE['bf16'] / 1e12:g} TFLOP/s in bf16, {RATE['fp32'] / 1e12:g} in fp32"
)


class Speed(NamedTuple):
    """The training speed of one network on this machine.

    Attributes:
        device: `cpu` or `cuda`.
        name: name of the device.
        precision: `fp32` or `bf16`.
        threads: threads of the run.
        image_flops: FLOPs of one image through the network.
        flops_per_second: FLOPs per second of its training.
    """

    device: str
    name: str
    precision: str
    threads: int
    image_flops: int
    flops_per_second: float


def h100(cost: Cost, precision: str) -> float:
    """Estimated seconds of a run on one H100, by `RULE`."""
    passes = cost.steps * (cost.convolutions + cost.taught / 3) + cost.batches * cost.convolutions / 3
    return passes * LAUNCHES * LAUNCH + (cost.training_flops + cost.testing_flops) / RATE[precision]


def here(cost: Cost, precision: str, threads: int, speeds: Sequence[Speed]) -> float:
    """Estimated seconds of a run, from the median speed of the networks nearest in size, with equal settings if any."""
    alike = [one for one in speeds if (one.precision, one.threads) == (precision, threads)]
    alike = alike or [one for one in speeds if one.precision == precision] or list(speeds)
    nearest = min(alike, key=lambda one: abs(math.log(one.image_flops / cost.image_flops))).image_flops
    speed = statistics.median(one.flops_per_second for one in alike if one.image_flops == nearest)
    return (cost.training_flops + cost.testing_flops) / speed


def finished_here(entries: Store, device: str) -> list[Speed]:
    """Speeds of the latest runs that this machine finished on such a device, from the store's journal."""
    keys = dict.fromkeys(
        str(line.get("key"))
        for line in entries.journal()
        if line.get("event") == "finished" and line.get("host") == platform.node()
    )
    found = (_of_run(entries.folder(key)) for key in list(keys)[-LATEST:])
    return [one for one in found if one and one.device == device]


def _of_run(folder: Path) -> Speed | None:
    """The speed of a finished run; None if nothing was trained, or if the cost of an image is unknown."""
    try:
        record = files.read_json(folder / "run.json")
        row, device = record["row"], record["device"]
        if row["start"]["kind"] == "random" and record["parents"]:
            return None  # part of the time went into the teacher
        with (folder / "timing.csv").open(newline="", encoding="utf-8") as handle:
            epochs = list(csv.DictReader(handle))
        seconds = math.fsum(float(epoch["train_seconds"]) for epoch in epochs)
        images = math.fsum(float(epoch["train_seconds"]) * float(epoch["images_per_second"]) for epoch in epochs)
        data = record["data"]
        classes = record["architecture"]["classes"]
        model = Model.model_validate(row["model"])
        network = costs.network(model, classes, side(data))
        if network is None or not seconds > 0:
            return None
        speed = network.step_flops * images / seconds
        device_name = str(device.get("name") or device["type"])
        return Speed(
            device["type"], device_name, row["training"]["precision"], record["threads"], network.layers.flops, speed
        )
    except (CoopNetError, OSError, KeyError, TypeError, ValueError):  # pydantic's errors are ValueErrors
        return None


def remembered(workspace: Workspace, device: str) -> list[Speed]:
    """Earlier results of `measure` on this machine."""
    return [one for one in _measured(workspace).get(platform.node(), []) if one.device == device]


def _measured(workspace: Workspace) -> dict[str, list[Speed]]:
    """All results of `measure`, by machine; none if their file is missing or damaged."""
    try:
        known = files.read_json(_memory(workspace))
        return {machine: [Speed(*one) for one in found] for machine, found in known.items()}
    except (CoopNetError, AttributeError, TypeError):
        return {}


def _memory(workspace: Workspace) -> Path:
    return workspace.stamps / "speed.json"


def measure(workspace: Workspace, plan: Study) -> Speed:
    """Train the study's most frequent network from scratch for a few steps on random images, and save its speed.

    Raises:
        CoopNetError: no row is trained from random weights only, or the device is not available.
    """
    import numpy as np
    import torch

    from coopnet.runs.setup import load_splits, start
    from coopnet.training import device
    from coopnet.training.engine import make_deterministic
    from coopnet.training.trainer import Interrupted, Task, train

    run = _typical(plan)
    network = costs.network(run.row.model, run.dataset.classes, run.dataset.size)
    assert network is not None
    where = device.choose(plan.device)
    make_deterministic(run.threads)
    draw, batch = np.random.default_rng(0), run.row.training.batch_size
    shape = (4 * batch, run.dataset.size, run.dataset.size, 3)
    arrays = draw.integers(0, 256, shape, dtype=np.uint8), draw.integers(0, run.dataset.classes, 4 * batch)
    every = {"train": arrays, "test": (arrays[0][:2], arrays[1][:2])}
    splits = load_splits(run, every, where)
    initial = start(run, (), splits["training"]).initial
    initial.network.to(where).to(memory_format=torch.channels_last)
    watch = _Watch()
    task = Task(initial, run.row.training, splits, augment=run.row.data.augmentation == "crop_flip", seed=0)
    with contextlib.suppress(Interrupted):
        train(task, watch, watch, watch.reason)
    name = str(device.describe(where).get("name") or where.type)
    flops = network.step_flops * statistics.median(watch.speeds)
    found = Speed(plan.device, name, run.row.training.precision, run.threads, network.layers.flops, flops)
    known = _measured(workspace)
    others = [one for one in known.get(platform.node(), []) if one[:5] != found[:5]]
    files.write_json(_memory(workspace), known | {platform.node(): [*others, found]})
    return found


def _typical(plan: Study) -> Run:
    """A run from scratch of the network that the study trains most, with more epochs than needed."""
    runs = [run for run in plan.runs.values() if run.row.start.kind == "random" and not run.parents]
    runs = [run for run in runs if run.row.training.epochs and not run.row.model.wrapped]
    if not runs:
        raise CoopNetError(
            f"study {plan.name} trains none of the project's own networks from scratch, so nothing can be measured"
        )
    work: dict[str, float] = {}
    for run in runs:
        cost = costs.cost(run)
        work[run.experiment] = work.get(run.experiment, 0.0) + (cost.training_flops if cost else 0)
    run = next(run for run in runs if run.experiment == max(work, key=work.__getitem__))
    data = run.row.data.model_copy(update={"validation": 0, "training_subset": None})
    training = run.row.training.model_copy(update={"epochs": 10_000, "selection": "last"})
    return replace(run, row=run.row.model_copy(update={"data": data, "training": training}))


class _Watch:
    """State and progress of a run that is discarded: it records the speed of each epoch but the first."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.epochs: list[float] = []

    @property
    def speeds(self) -> list[float]:
        """Images per second."""
        return self.epochs[1:]

    def reason(self) -> str | None:
        """The reason to stop: time is up and an epoch was measured; otherwise None."""
        return "measured" if self.speeds and time.monotonic() - self.began > SECONDS else None

    def load(self) -> None:
        """Do nothing."""

    def save(self, tensors: Mapping[str, Any], facts: dict[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Do nothing."""

    def advance(self, images: int) -> None:
        """Do nothing."""

    def end(self, row: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Record the speed."""
        self.epochs.append(timing["images_per_second"])
