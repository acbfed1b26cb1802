"""What a network costs: its parameters, and the floating-point operations (FLOPs) of a test and of a training image.

They are counted while a small batch runs through the network itself, by PyTorch's own counter. It counts convolutions
and matrix products, forward and backward, a multiply-add as 2 operations; nothing else: no normalisation, no
activation, no pooling, no loss, no optimiser.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coopnet.data.datasets import DATASETS, Dataset
from coopnet.networks.loss import Teaching, loss
from coopnet.networks.network import Architecture, Outputs, build, trainable_parameters
from coopnet.networks.planned import architecture_of
from coopnet.study.settings import Experiment

if TYPE_CHECKING:
    from coopnet.networks.backbone import Backbone

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


def count(row: Experiment, teacher: Experiment | None = None, dataset: Dataset | None = None) -> Counts:
    """Count for an experiment.

    Args:
        row: what is trained.
        teacher: the parent that a student learns from; no parent that gives weights.
        dataset: of both, where it does not come with the project.
    """
    dataset = dataset or DATASETS[row.data.dataset]
    architecture = architecture_of(row.model, dataset)
    own = _alone(architecture, dataset.size, row.training.distillation.kind if row.training.epochs else None)
    if teacher is None:
        return own
    return own._replace(step_flops=own.step_flops + count(teacher, dataset=dataset).inference_flops)


@functools.cache
def _alone(architecture: "Architecture | Backbone", size: int, distillation: str | None) -> Counts:
    """Count without a teacher; `distillation` is the kind of loss, None where nothing is trained."""
    network = build(architecture, seed=0)
    images = torch.zeros(BATCH, 3, size, size)
    step = 0
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(distillation is not None):
        _spare_the_compiler(counter)
        outputs = network(images)
        inference = counter.get_total_flops()  # eval mode convolves and multiplies the same
        if distillation is not None:
            _loss(network.architecture, outputs, distillation).backward()
            step = counter.get_total_flops()
    # Every operation that counts is repeated for each image.
    return Counts(trainable_parameters(network), inference // BATCH, step // BATCH)


def flops_of(module: nn.Module, images: Tensor) -> int:
    """FLOPs of one image through any module in eval mode; `images` are one or more, as it takes them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _spare_the_compiler(counter)
        module(images)
    return int(counter.get_total_flops()) // len(images)


def _loss(architecture: "Architecture | Backbone", outputs: Outputs, distillation: str) -> Tensor:
    """The loss of a batch, whatever its labels and a teacher say."""
    images, classes = len(outputs.branches), architecture.classes
    labels = torch.zeros(images, dtype=torch.long)
    targets = torch.full((images, classes), 1 / classes)
    return loss(outputs, labels, Teaching(distillation, architecture.gate != "none"), targets).total


def _spare_the_compiler(counter: FlopCounterMode) -> None:
    """Keep PyTorch from importing its compiler (6 s), which it does only to keep the compiler away from the counter.

    It looks for this attribute first, and where it does not, in another version, nothing but time is lost.
    """
    dispatch = getattr(getattr(counter.mode, "__torch_dispatch__", None), "__wrapped__", None)
    if dispatch is not None:
        setattr(dispatch, "__dynamo_disable", dispatch)
