"""What a network costs: its parameters, and the floating-point operations (FLOPs) of a test and of a training image.

They are counted while a small batch runs through the network itself, by PyTorch's own counter. It counts convolutions
and matrix products, forward and backward, a multiply-add as 2 operations; nothing else: no normalisation, no
activation, no pooling, no loss, no optimiser.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from coopnet.data.datasets import DATASETS
from coopnet.networks.loss import Teaching, loss
from coopnet.networks.network import Architecture, CooperativeNetwork, build, trainable_parameters
from coopnet.settings import Experiment

BATCH = 2
"""Images that are counted at once; the gate's BatchNorm has no variance over a single one."""


class Counts(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: trainable scalars.
        inference_flops: of one image through the whole ensemble, in eval mode.
        step_flops: of one training image: forward, backward, and the forward of a teacher from outside; 0 where
            nothing is trained.
    """

    parameters: int
    inference_flops: int
    step_flops: int


def count(row: Experiment, teacher: Experiment | None = None) -> Counts:
    """Count for an experiment; `teacher` is the parent that a student learns from, and no parent that gives weights."""
    own = _alone(_architecture(row), row.training.distillation.kind if row.training.epochs else None)
    if teacher is None:
        return own
    return own._replace(step_flops=own.step_flops + count(teacher).inference_flops)


def _architecture(row: Experiment) -> Architecture:
    return Architecture(**row.model.model_dump(), classes=DATASETS[row.data.dataset].classes)


@functools.cache
def _alone(architecture: Architecture, distillation: str | None) -> Counts:
    """Count without a teacher; `distillation` is the kind of loss, None where nothing is trained."""
    network = build(architecture, seed=0)
    images = torch.zeros(BATCH, 3, 32, 32)
    with torch.no_grad():
        inference = _per_image(lambda: network.eval()(images))
    step = _per_image(lambda: _step(network.train(), images, distillation)) if distillation else 0
    return Counts(trainable_parameters(network), inference, step)


def _step(network: CooperativeNetwork, images: Tensor, distillation: str) -> None:
    """Forward and backward of a batch, whatever its labels and a teacher say."""
    classes = network.architecture.classes
    labels = torch.zeros(len(images), dtype=torch.long)
    lesson = torch.full((len(images), classes), 1 / classes)
    teaching = Teaching(distillation, network.architecture.gate != "none")
    loss(network(images), labels, teaching, lesson).total.backward()


def _per_image(work: Callable[[], object]) -> int:
    """FLOPs of some work on a batch, by image; every operation that counts is repeated for each image."""
    with FlopCounterMode(display=False) as counter:
        _spare_the_compiler(counter)
        work()
    return int(counter.get_total_flops()) // BATCH


def _spare_the_compiler(counter: FlopCounterMode) -> None:
    """Keep PyTorch from importing its compiler (6 s), which it does only to keep the compiler away from the counter.

    It looks for this attribute first, and where it does not, in another version, nothing but time is lost.
    """
    dispatch = getattr(getattr(counter.mode, "__torch_dispatch__", None), "__wrapped__", None)
    if dispatch is not None:
        setattr(dispatch, "__dynamo_disable", dispatch)
