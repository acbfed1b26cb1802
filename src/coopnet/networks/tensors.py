"""Checks of a network's tensors before it is built."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from coopnet.networks.network import Architecture, blocks_per_stage, stages


def finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; integers are always finite."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def check_count(architecture: Architecture, tensors: int) -> None:
    """Refuse an architecture that this number of tensors cannot fill, because building it would take long.

    Raises:
        ValueError: it has more residual blocks than tensors, or does not exist.
    """
    blocks = blocks_per_stage(architecture) * (stages(architecture) - 1 + architecture.branches)
    if blocks > tensors:
        raise ValueError(f"{tensors} tensors are too few for {blocks} residual blocks")


class ShapesAlone(TorchFunctionMode):
    """Builds networks on the meta device, without memory and without the random numbers of the initialisation."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return function(*args, **(kwargs or {}))
