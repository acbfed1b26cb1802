"""Convolutions that PyTorch computes wrongly on some CPUs, and a workaround.

On CPUs with AVX2 and no AVX512, the oneDNN of PyTorch 2.15 writes out of bounds in the weight gradient of a strided 1×1
convolution of fewer than 8 input channels, if its features or its weights are in channels-last order: the process dies,
never ends, or computes nonsense. The projections of networks narrower than 8 channels are such convolutions.
"""

from typing import Any

import torch
from torch import nn

CHANNELS = 8
"""With at least this many input channels the kernels are correct."""


def broken(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of a network that PyTorch would compute wrongly on this CPU."""
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return []
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [one for one in convolutions if max(one.kernel_size) == 1 < max(one.stride) and one.in_channels < CHANNELS]


def avoid_broken_kernels(network: nn.Module, device: torch.device) -> None:
    """Switch oneDNN off for this process if it would compute a convolution of the network wrongly.

    That changes the last bits of every convolution, so this module belongs to the numerics.
    """
    if device.type == "cpu" and broken(network):
        torch.backends.mkldnn.set_flags(False)


def avoid(network: nn.Module) -> None:
    """Give these convolutions features and weights in contiguous order only, in any training loop.

    Nothing changes on other CPUs, on GPUs, and while oneDNN is off, as in the trainer of the study.
    """
    for convolution in broken(network):
        convolution.register_forward_pre_hook(_in_plain_order)


def _in_plain_order(convolution: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    (features,) = inputs
    if features.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return None
    assert isinstance(convolution, nn.Conv2d)
    weight, plain = convolution.weight, (convolution.in_channels // convolution.groups, 1, 1, 1)
    if weight.stride() != plain:  # e.g. after network.to(memory_format=torch.channels_last)
        weight.data = weight.data.as_strided(weight.shape, plain)
    return (features.contiguous(),)
