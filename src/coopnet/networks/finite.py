"""Whether numbers are numbers."""

import torch
from torch import Tensor


def finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; integers are always finite."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
