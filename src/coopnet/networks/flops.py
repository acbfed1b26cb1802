"""The cost of a network: its parameters, and the floating-point operations (FLOPs) per test and training image.

PyTorch's own counter counts them while a small batch runs through the network. It counts convolutions and matrix
products, forward and backward, a multiply-add as 2 operations. It does not count normalisation, activations, pooling,
the loss or the optimiser.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coopnet.data.datasets import DATASETS, Dataset
from coopnet.networks.network import Architecture, build, trainable_parameters
from coopnet.networks.planned import architecture_of
from coopnet.study.settings import Experiment

if TYPE_CHECKING:
    from coopnet.networks.backbone import Backbone

BATCH = 2
"""Images per count; the gate's BatchNorm has no variance over a single one."""


class Counts(NamedTuple):
    """The cost of a network.

    Attributes:
        parameters: trainable scalars.
        inference_flops: of one image through the whole ensemble, in eval mode.
        step_flops: of one training image: forward, backward, and the forward pass of an external teacher; 0 if nothing
            is trained.
    """

    parameters: int
    inference_flops: int
    step_flops: int


def count(row: Experiment, teacher: Experiment | None = None, dataset: Dataset | None = None) -> Counts:
    """Count parameters and FLOPs of an experiment.

    Args:
        row: the experiment.
        teacher: the parent that a student learns from; not a parent that provides weights.
        dataset: of both; needed if it is not one of the project's own.
    """
    dataset = dataset or DATASETS[row.data.dataset]
    architecture = architecture_of(row.model, dataset)
    own = _alone(architecture, dataset.size, bool(row.training.epochs))
    if teacher is None:
        return own
    return own._replace(step_flops=own.step_flops + count(teacher, dataset=dataset).inference_flops)


@functools.cache
def _alone(architecture: "Architecture | Backbone", size: int, trained: bool) -> Counts:
    """Count without a teacher."""
    network = build(architecture, seed=0)
    images = torch.zeros(BATCH, 3, size, size)
    step = 0
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trained):
        _spare_the_compiler(counter)
        outputs = network(images)
        inference = counter.get_total_flops()  # eval mode has the same convolutions and products
        if trained:
            outputs.ensemble.sum().backward()  # any loss has the same products behind it
            step = counter.get_total_flops()
    # Every counted operation is repeated for each image.
    return Counts(trainable_parameters(network), inference // BATCH, step // BATCH)


def flops_of(module: nn.Module, images: Tensor) -> int:
    """FLOPs of one image through any module in eval mode; `images` is a batch of its input."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _spare_the_compiler(counter)
        module(images)
    return int(counter.get_total_flops()) // len(images)


def _spare_the_compiler(counter: FlopCounterMode) -> None:
    """Keep PyTorch from importing its compiler (6 s), which it does only to exclude the counter from compilation.

    PyTorch first looks for this attribute. If another version does not, the only cost is time.
    """
    dispatch = getattr(getattr(counter.mode, "__torch_dispatch__", None), "__wrapped__", None)
    if dispatch is not None:
        setattr(dispatch, "__dynamo_disable", dispatch)
