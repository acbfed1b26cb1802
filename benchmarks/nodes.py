"""The operations of a training step, counted without a GPU, and an estimate of the nodes of its CUDA graph.

    python -m benchmarks.nodes

Operations that reach PyTorch's dispatcher are counted, except views and mere allocations. Nodes are estimated from the
number of kernels that PyTorch 2.11 launches for each operation on a GPU, according to its source. The additional
kernels of cuDNN are a guess, which `python -m benchmarks.gpu a` replaces by a profile.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.workload import MODELS, architecture
from coopnet import study
from coopnet.data.augment import Images, draw_epoch
from coopnet.networks.loss import Teaching
from coopnet.networks.network import build
from coopnet.study.settings import SGD
from coopnet.training.engine import Meters, batches, make_deterministic, train_step
from coopnet.training.optimizer import Optimizer

FOLDER = Path(__file__).parent.parent
WAITS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select", "unique", "bincount")
"""Operations for whose result, or its shape, the host has to wait."""

KERNELS = {
    "convolution_backward": 5,  # gradients of input and weight, and cuDNN's clearing, reduction and transposition
    "native_batch_norm": 3,  # statistics, running averages, elementwise
    "_native_batch_norm_legit": 3,
    "native_batch_norm_backward": 2,  # sums, elementwise
    "nll_loss_forward": 2,
    "nll_loss_backward": 2,
}
"""Kernels of an operation on a GPU, if there is not exactly one."""


class Census(TorchDispatchMode):
    """Counts launched operations by name, except views and mere allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        name = function.overloadpacket.__name__
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the device, which a graph cannot")
        if not function.is_view and "empty" not in name:
            self.launched[name] += 1
        return function(*args, **(kwargs or {}))


def count(name: str, precision: str, images: int = 8) -> Counter[str]:
    """Operations of a training step of a row of `params.yaml`, by name; they do not depend on the number of images."""
    make_deterministic(1)
    row, device = study.load(FOLDER).experiments[name], torch.device("cpu")
    network = build(architecture(row), 0).to(memory_format=torch.channels_last).train()
    pixels, labels = torch.zeros(images, 32, 32, 3, dtype=torch.uint8).numpy(), torch.zeros(images).numpy()
    split = Images(pixels, labels, [0.5] * 3, [0.25] * 3, device)
    assert isinstance(row.training.optimizer, SGD)
    optimizer, meters = Optimizer(network, row.training.optimizer, {}), Meters(row.model.branches, device)
    teaching = Teaching("on_the_fly", row.model.gate != "none", temperature=3.0, weight=0.5)
    draws = next(batches(draw_epoch(images, 0, 0, device), images, 0, 1))
    with Census() as census:
        train_step(network, optimizer, split.augmented(*draws), split.labels[draws.order], teaching, precision, meters)
    return census.launched


def nodes(launched: Counter[str]) -> int:
    """Estimated number of nodes in a graph of these operations."""
    return sum(KERNELS.get(name, 1) * number for name, number in launched.items())


def table() -> str:
    """Counts and estimates of all models, in Markdown."""
    lines = ["| model | precision | operations, counted | nodes, estimated |", "| --- | --- | --- | --- |"]
    for name in MODELS:
        for precision in ("fp32", "bf16"):
            launched = count(name, precision)
            lines.append(f"| {name} | {precision} | {launched.total()} | {nodes(launched)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
