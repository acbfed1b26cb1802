"""Timers that wait for the device before they read the clock."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from coopnet.training.trainer import Row


class Enough(Exception):
    """The requested number of steps has been run."""


def now(device: torch.device) -> float:
    """Seconds, after everything launched on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest of some samples, and the samples themselves."""
    return {"median": median(samples), "lowest": min(samples), "highest": max(samples), "samples": list(samples)}


class Stopwatch:
    """Measures the last epoch of either loop.

    It waits for the device four times: when the epoch begins, after `warmup` steps, after the last step and at the end.
    Speed is measured between the second and the third time. So the selection, compilation or capture of kernels in the
    first steps, and the start of the reference's workers, only count in the seconds of the epoch.

    Args:
        device: the device to wait for.
        warmup: steps that are excluded from the speed.
        limit: steps after which `Enough` is raised; None: run to the end.
    """

    def __init__(self, device: torch.device, warmup: int = 0, limit: int | None = None):
        self.device, self.warmup, self.limit = device, warmup, limit

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """An epoch begins; measurements of earlier epochs are discarded."""
        self.images = images
        self.steps = self.seen = self.unmeasured = 0
        self.begun = self.warm = now(self.device)

    def advance(self, images: int) -> None:
        """A step is done."""
        self.steps += 1
        self.seen += images
        if self.steps == self.warmup:
            self.warm, self.unmeasured = now(self.device), self.seen
        if self.seen == self.images:
            self.trained = now(self.device)
        if self.steps == self.limit:
            raise Enough

    def end(self, row: Row, timing: Row) -> None:
        """The epoch is done, evaluation included."""
        self.ended = now(self.device)

    @property
    def images_per_second(self) -> float:
        """Training speed after the warm-up."""
        return (self.seen - self.unmeasured) / (self.trained - self.warm)

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of the epoch after its last step."""
        return self.ended - self.trained

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the whole epoch."""
        return self.ended - self.begun


class Laps:
    """Sums the seconds of each part of a step, except in the first `warmup` steps; waits for the device each time."""

    def __init__(self, device: torch.device, warmup: int):
        self.device, self.warmup, self.steps = device, warmup, 0
        self.seconds: dict[str, float] = {}

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """The first part begins."""
        self.last = now(self.device)

    def lap(self, part: str) -> None:
        """A part is done."""
        time_now = now(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time_now - self.last
        self.last = time_now

    def advance(self, images: int) -> None:
        """A step is done."""
        self.steps += 1
        if self.steps == self.warmup:
            self.seconds.clear()
        self.last = now(self.device)

    def end(self, row: Row, timing: Row) -> None:
        """Do nothing."""

    def shares(self) -> dict[str, float]:
        """Each part's share of the time of a step."""
        total = sum(self.seconds.values())
        return {part: seconds / total for part, seconds in self.seconds.items()}
