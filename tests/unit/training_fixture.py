"""Small runs of training, held in memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopnet.data.augment import Images
from coopnet.networks.network import Architecture, build
from coopnet.networks.transfer import TrainedNetwork, expand
from coopnet.study.settings import Training
from coopnet.training.engine import make_deterministic
from coopnet.training.schedule import Opening
from coopnet.training.trainer import Task, TrainingResult

CPU = torch.device("cpu")
WIDTH = 4
"""Channels of the first stage."""


class Silence:
    """Ignores all progress."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None: ...

    def advance(self, images: int) -> None: ...

    def end(self, row: dict[str, float], timing: dict[str, float]) -> None: ...


class Ram:
    """Saved state in memory, which survives an interruption like a disk."""

    def __init__(self) -> None:
        self.saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.saved

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        copied = {name: tensor.clone() for name, tensor in tensors.items()}
        self.saved = (copied, {k: list(v) if isinstance(v, list) else v for k, v in facts.items()})

    def flush(self) -> None: ...


def split(count: int, seed: int, device: torch.device = CPU) -> Images:
    """Random images of 4 classes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Images(pixels, rng.integers(0, 4, count), [0.5] * 3, [0.25] * 3, device)


def settings(**changes: Any) -> Training:
    """Three short epochs, with changes."""
    base: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 16,
        "optimizer": {"kind": "sgd", "lr": 0.05},
        "schedule": {"milestones": [1, 2], "gamma": 0.5},
        "distillation": {"kind": "on_the_fly", "temperature": 3.0, "rampup": 2},
    }
    return Training.model_validate(base | changes)


def task(
    training: Training, seed: int = 0, start: str = "random", branches: int = 2, device: torch.device = CPU
) -> Task:
    """A small network and 70 images; a `start` other than random grows it by one branch."""
    make_deterministic(1)
    trained = TrainedNetwork(build(Architecture("cifar_resnet", 8, "basic", WIDTH, branches, "learned", 4), seed), {})
    opening = teacher = None
    if start == "taught":
        plain, teacher = (
            build(Architecture("cifar_resnet", 8, "basic", WIDTH, 1, "none", 4), s) for s in (seed, seed + 1)
        )
        trained = TrainedNetwork(plain, {})
        teacher.to(device).to(memory_format=torch.channels_last)
    elif start != "random":
        trained = expand(trained, branches + 1, kind=start, seed=seed)
    if start == "masked":
        opening = Opening((branches,), 0.4, 0.6)
    trained.network.to(device).to(memory_format=torch.channels_last)
    parts = {"training": split(70, 1, device), "validation": split(20, 2, device), "test": split(30, 3, device)}
    return Task(trained, training, parts, augment=True, seed=seed, opening=opening, teacher=teacher)


def result(trained: TrainingResult) -> dict[str, Any]:
    """All bits of a result."""
    tensors = dict(trained.network.state_dict())
    tensors |= {f"{slot}/{n}": t for slot, values in trained.optimizer_state.items() for n, t in values.items()}
    return {
        "tensors": {name: tensor.cpu().contiguous().numpy().tobytes() for name, tensor in tensors.items()},
        "history": trained.history,
        "epoch": trained.selected_epoch,
    }


def never() -> None:
    """No reason to stop."""
