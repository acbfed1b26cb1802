"""The cost of a run in closed form, without torch: layers, operations, images and bytes.

`networks.flops` counts the same operations while a network runs, which needs torch and seconds; a test checks that both
agree for every row. Networks of other libraries have no closed form here.
"""

import functools
import math
from typing import NamedTuple

from coopnet.data.datasets import USUAL_SIZE, Dataset
from coopnet.study.plan import Run
from coopnet.study.settings import Experiment, Model

EXPANSION = {"basic": 1, "bottleneck": 4}
SLOTS = {"sgd": 1, "adam": 2}
"""Number of tensors that an optimiser keeps per parameter."""
NUMBER = 4
"""Bytes of a weight, of a logit and of a number in the optimiser state."""


class Layers(NamedTuple):
    """The sum of several layers.

    Attributes:
        flops: of one image: two per multiply-add of convolutions and linear layers.
        parameters: trainable scalars.
        buffers: scalars that are stored but not trained.
        convolutions: number of convolutions.
    """

    flops: int
    parameters: int
    buffers: int
    convolutions: int

    def __add__(self, other: "Layers") -> "Layers":  # type: ignore[override]
        """The sum of both."""
        return Layers(*(own + its for own, its in zip(self, other, strict=True)))

    def times(self, count: int) -> "Layers":
        """The sum of `count` copies."""
        return Layers(*(count * own for own in self))


NOTHING = Layers(0, 0, 0, 0)


def _convolution(kernel: int, inputs: int, outputs: int, side: int) -> Layers:
    """A convolution with `side`² output positions, and its BatchNorm, whose mean, variance and counter are buffers."""
    weights = kernel**2 * inputs * outputs
    return Layers(2 * weights * side**2, weights + 2 * outputs, 2 * outputs + 2, 1)


def _linear(inputs: int, outputs: int) -> Layers:
    return Layers(2 * inputs * outputs, (inputs + 1) * outputs, 0, 0)


def _block(kind: str, inputs: int, channels: int, side: int, stride: int) -> Layers:
    """A residual block with `side`² output positions (He et al. 2016, arXiv 1512.03385)."""
    outputs = EXPANSION[kind] * channels
    if kind == "basic":
        layers = _convolution(3, inputs, channels, side) + _convolution(3, channels, channels, side)
    else:
        layers = _convolution(1, inputs, channels, side * stride) + _convolution(3, channels, channels, side)
        layers += _convolution(1, channels, outputs, side)
    return layers if stride == 1 and inputs == outputs else layers + _convolution(1, inputs, outputs, side)


def _stage(model: Model, index: int, side: int) -> Layers:
    """A stage with `side`² output positions."""
    each = EXPANSION[model.block]
    channels = model.width * 2**index
    inputs = model.width if index == 0 else each * channels // 2
    blocks = 2 if model.family == "resnet18" else (model.depth - 2) // (6 if model.block == "basic" else 9)
    first = _block(model.block, inputs, channels, side, 1 if index == 0 else 2)
    return first + _block(model.block, each * channels, channels, side, 1).times(blocks - 1)


class Network(NamedTuple):
    """A network's layers, and the FLOPs of a training image: forward and backward, without the images' gradient."""

    layers: Layers
    step_flops: int


@functools.cache
def network(model: Model, classes: int, size: int) -> Network | None:
    """A network for images of `size` pixels a side; None if it comes from another library."""
    if model.wrapped:
        return None
    stages = 4 if model.family == "resnet18" else 3
    sides = [math.ceil(size / 2**index) for index in range(stages)]
    trunks = 1 if model.trunk == "shared" else model.branches
    stem = trunk = _convolution(3, 3, model.width, size)
    for index in range(stages - 1):
        trunk += _stage(model, index, sides[index])
    widest = EXPANSION[model.block] * model.width * 2 ** (stages - 1)
    branch = _stage(model, stages - 1, sides[-1]) + _linear(widest, classes)
    whole = trunk.times(trunks) + branch.times(model.branches)
    if model.gate == "learned":
        norm = Layers(0, 2 * model.branches, 3 * model.branches + 2, 0)  # with the log-prior
        whole += _linear(trunks * widest // 2, model.branches) + norm
    return Network(whole, 3 * whole.flops - trunks * stem.flops)


class Cost(NamedTuple):
    """The cost of a run.

    Attributes:
        image_flops: of one image through the network.
        training_flops: of all epochs: forward, backward, and the forward pass of a teacher.
        testing_flops: of evaluation on test and validation images, during training and at the end.
        steps: number of training steps.
        batches: number of evaluation batches.
        convolutions: number in one pass through the network.
        taught: number in one pass through its teacher.
        disk: bytes of its files.
    """

    image_flops: int
    training_flops: int
    testing_flops: int
    steps: int
    batches: int
    convolutions: int
    taught: int
    disk: int


TESTED = 1000
"""Images of the usual size per evaluation batch (`training.engine.evaluation_batch`)."""


def cost(run: Run) -> Cost | None:
    """The cost of a run; None if its network, or its teacher's, has no closed form."""
    row, data, training = run.row, run.dataset, run.row.training
    own = network(row.model, data.classes, data.size)
    teacher = network(run.parents[0].row.model, data.classes, data.size) if row.taught else Network(NOTHING, 0)
    if own is None or teacher is None:
        return None
    layers, images = own.layers, training_images(row, data)
    tested, validated = data.counts["test"], row.data.validation
    rounds = math.ceil(training.epochs / training.test_every)
    evaluations = (rounds + 1, tested), (training.epochs + 1, validated)
    logits = (tested + validated) * (NUMBER * row.model.branches * (data.classes + 1) + 1)
    batch = min(TESTED, max(1, TESTED * USUAL_SIZE**2 // data.size**2))
    kept = layers.parameters * (1 + SLOTS[training.optimizer.kind]) + layers.buffers
    return Cost(
        image_flops=layers.flops,
        training_flops=(own.step_flops + teacher.layers.flops) * images * training.epochs,
        testing_flops=layers.flops * sum(times * count for times, count in evaluations),
        steps=training.epochs * math.ceil(images / training.batch_size),
        batches=sum(times * math.ceil(count / batch) for times, count in evaluations),
        convolutions=layers.convolutions,
        taught=teacher.layers.convolutions,
        disk=logits + NUMBER * kept,
    )


def training_images(row: Experiment, dataset: Dataset) -> int:
    """Number of training images of a row."""
    return row.data.training_subset or dataset.counts["train"] - row.data.validation
