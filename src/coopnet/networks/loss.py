"""The ONE loss: labels teach every branch and the ensemble, and the ensemble teaches every branch.

Source: Lan, Zhu and Gong, NeurIPS 2018 (arXiv 1806.04606), equations 4 to 6; the ramp-up r(t) is that of the published
code (after Laine and Aila, arXiv 1610.02242).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from coopnet.networks.network import Outputs


def rampup(epoch: int, length: float) -> float:
    """r(t) = exp(−5 (1 − t/R)²) before epoch R = `length`, then 1; `length` 0 means 1 throughout."""
    if epoch >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - epoch / length) ** 2)


class Loss(NamedTuple):
    """Scalars, means over the images of a batch.

    Attributes:
        total: what is minimised, cross_entropy + r · kl.
        cross_entropy: Σ CE(branch) + CE(ensemble); for a network without gate the CE of its single branch.
        kl: T² · Σ KL(ensemble ‖ branch), before the ramp-up.
    """

    total: Tensor
    cross_entropy: Tensor
    kl: Tensor


def cooperative_loss(
    outputs: Outputs, labels: Tensor, *, gated: bool, temperature: float, weight: Tensor | float
) -> Loss:
    """Σ CE(branch) + CE(ensemble) + r·T²·Σ KL(ensemble ‖ branch), the teacher detached.

    Args:
        outputs: branch logits [N, B, C] and gate weights [N, B].
        labels: [N] class indices.
        gated: whether an ensemble exists beside the branches; a plain network minimises the CE of its branch alone,
            while the published one-branch model (B = 1 through a gate) minimises twice that.
        temperature: T; the paper uses 3.
        weight: r, the weight of the distillation.
    """
    images, branches, classes = outputs.branches.shape
    repeated = labels.repeat_interleave(branches)
    cross_entropy = F.cross_entropy(outputs.branches.reshape(-1, classes), repeated, reduction="sum") / images
    if not gated:
        return Loss(cross_entropy, cross_entropy, torch.zeros_like(cross_entropy))
    ensemble = outputs.ensemble
    cross_entropy = cross_entropy + F.cross_entropy(ensemble, labels)
    teacher = F.log_softmax(ensemble.detach() / temperature, dim=1).unsqueeze(1)
    students = F.log_softmax(outputs.branches / temperature, dim=2)
    kl = temperature**2 * (teacher.exp() * (teacher - students)).sum() / images
    return Loss(cross_entropy + weight * kl, cross_entropy, kl)
