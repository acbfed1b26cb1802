"""The measured limits of the machine, and the least work that a training step needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.watch import now, spread
from benchmarks.workload import architecture
from coopnet.networks.network import build, trainable_parameters
from coopnet.study.settings import Experiment

ELEMENT = {"bf16": 2, "fp32": 4, "tf32": 4}
"""Bytes of a number in memory."""

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices."""

COPIED = 256 * 2**20
"""Bytes; several times the size of any cache."""

TRIES = 7


def matrix_products(device: torch.device, precision: str) -> dict[str, Any]:
    """FLOP/s of a product of two large square matrices, a multiply-add as 2 operations."""
    side = SIDE[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    out = torch.empty_like(left)
    with _tf32(precision == "tf32"):
        return _rate(lambda: torch.mm(left, right, out=out), 2 * side**3, device)


def bandwidth(device: torch.device) -> dict[str, Any]:
    """Bytes per second of a large copy, read and written bytes both counted."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return _rate(lambda: target.copy_(source), 2 * COPIED, device)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _rate(work: Callable[[], object], amount: int, device: torch.device) -> dict[str, Any]:
    """Amount per second in each of some tries, after a first call for warm-up."""
    calls = 20 if device.type == "cuda" else 1
    work()
    samples = []
    for _ in range(TRIES):
        began = now(device)
        for _ in range(calls):
            work()
        samples.append(calls * amount / (now(device) - began))
    return spread(samples)


def traffic(row: Experiment, precision: str) -> float:
    """Least number of bytes that a training image must move through memory, for a row and its batch size.

    Activations count only as inputs and outputs of convolutions and linear layers, once each: forward,
    their input and output; backward, the output's gradient, the input again, and the input's gradient. Everything
    between them (BatchNorm, ReLU, sums, pooling) is assumed to be fused into them, and nothing to stay in a cache from
    one layer to the next. Parameters are shared by the images of a batch: they are read forward and backward, and their
    gradient is written; then the optimiser reads parameter, gradient and momentum and writes parameter and momentum, in
    float32.
    """
    network, counted = build(architecture(row), 0), [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted[0] += 3 * inputs[0].numel() + 2 * output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    images = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        network.eval()(images)
    element = ELEMENT[precision]
    activations = element * (counted[0] - images.numel()) / len(images)  # the gradient of the images is not computed
    parameters = trainable_parameters(network) * (2 * element + 6 * ELEMENT["fp32"])
    return activations + parameters / row.training.batch_size
