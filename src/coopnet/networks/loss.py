"""The losses: labels, and a teacher inside or outside the network.

Sources, by kind of distillation:
- `on_the_fly`, `none`: ONE (Lan, Zhu and Gong, NeurIPS 2018, arXiv 1806.04606), equations 4 to 6; the ramp-up r(t) is
  that of the published code (after Laine and Aila, arXiv 1610.02242).
- `mutual`: deep mutual learning (Zhang et al., CVPR 2018, arXiv 1706.00384), equations 5 and 8; here all branches are
  updated at once, while the paper updates the networks in turn.
- `knowledge`: Hinton, Vinyals and Dean (arXiv 1503.02531), section 2. `soft_labels` is its soft term alone, as in
  born-again networks (Furlanello et al., ICML 2018, arXiv 1805.04770).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from coopnet.networks.network import Outputs


def rampup(epoch: int, length: float) -> float:
    """r(t) = exp(−5 (1 − t/R)²) before epoch R = `length`, then 1; with `length` 0 always 1."""
    if epoch >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - epoch / length) ** 2)


class Teaching(NamedTuple):
    """The settings of the loss.

    Attributes:
        kind: kind of distillation: `on_the_fly`, `none`, `mutual`, `soft_labels` or `knowledge`.
        gated: whether an ensemble is trained besides the branches; a plain network has none.
        temperature: T.
        weight: r, weight of the distillation; a scalar on the device if it changes between replays.
    """

    kind: str
    gated: bool
    temperature: float = 1.0
    weight: float | Tensor = 1.0


class Loss(NamedTuple):
    """Scalars, means over the images of a batch.

    Attributes:
        total: the loss that is minimised.
        cross_entropy: against the labels: Σ CE(branch), plus CE(ensemble) if the ensemble is trained too.
        kl: T² · Σ KL(teacher ‖ student), before its weight.
    """

    total: Tensor
    cross_entropy: Tensor
    kl: Tensor


def loss(outputs: Outputs, labels: Tensor, teaching: Teaching, teacher: Tensor | None = None) -> Loss:
    """The loss of a batch.

    Args:
        outputs: branch logits [N, B, C] and gate weights [N, B].
        labels: class indices [N], or probabilities of classes [N, C].
        teaching: the settings of the loss.
        teacher: for `soft_labels` and `knowledge`: the teacher's probabilities [N, C], softened by T.
    """
    match teaching.kind:
        case "on_the_fly":
            return cooperative_loss(outputs, labels, teaching)
        case "none":
            return cooperative_loss(outputs, labels, teaching._replace(weight=0.0))
        case "mutual":
            return mutual_loss(outputs, labels, teaching)
    assert teacher is not None
    return distillation_loss(outputs, labels, teacher, teaching)


def cooperative_loss(outputs: Outputs, labels: Tensor, teaching: Teaching) -> Loss:
    """Σ CE(branch) + CE(ensemble) + r·T²·Σ KL(ensemble ‖ branch), the teacher detached.

    A plain network minimises only the CE of its branch. The published one-branch model (B = 1 with a gate) minimises
    twice that.
    """
    cross_entropy = _cross_entropy(outputs, labels)
    if not teaching.gated:
        return Loss(cross_entropy, cross_entropy, torch.zeros_like(cross_entropy))
    ensemble, temperature = outputs.ensemble, teaching.temperature
    cross_entropy = cross_entropy + F.cross_entropy(ensemble, labels)
    teacher = F.log_softmax(ensemble.detach() / temperature, dim=1).unsqueeze(1)
    students = F.log_softmax(outputs.branches / temperature, dim=2)
    kl = temperature**2 * (teacher.exp() * (teacher - students)).sum() / len(labels)
    return Loss(cross_entropy + teaching.weight * kl, cross_entropy, kl)


def mutual_loss(outputs: Outputs, labels: Tensor, teaching: Teaching) -> Loss:
    """Σ over branches b of CE(b) + r·T²·(mean over the other branches o of KL(o ‖ b)), the others detached."""
    cross_entropy, branches = _cross_entropy(outputs, labels), outputs.branches.shape[1]
    students = F.log_softmax(outputs.branches / teaching.temperature, dim=2)
    teachers = students.detach().unsqueeze(2)  # [N, o, 1, C] against [N, 1, b, C]; KL(b ‖ b) is 0
    divergence = (teachers.exp() * (teachers - students.unsqueeze(1))).sum()
    kl = teaching.temperature**2 * divergence / ((branches - 1) * len(labels))
    return Loss(cross_entropy + teaching.weight * kl, cross_entropy, kl)


def distillation_loss(outputs: Outputs, labels: Tensor, teacher: Tensor, teaching: Teaching) -> Loss:
    """The loss of a single branch with an external teacher.

    `soft_labels`: the cross-entropy against the teacher's probabilities, without labels. `knowledge`: CE + r·T²·KL.
    """
    cross_entropy = _cross_entropy(outputs, labels)
    student = F.log_softmax(outputs.branches[:, 0] / teaching.temperature, dim=1)
    soft = -(teacher * student).sum() / len(labels)
    entropy = -torch.special.xlogy(teacher, teacher).sum() / len(labels)
    kl = teaching.temperature**2 * (soft - entropy)
    total = soft if teaching.kind == "soft_labels" else cross_entropy + teaching.weight * kl
    return Loss(total, cross_entropy, kl)


def soft_targets(outputs: Outputs, temperature: float) -> Tensor:
    """Targets [N, C] of a teacher: the gate-weighted mean of its branches' probabilities, softened by T."""
    return (outputs.gate.unsqueeze(2) * F.softmax(outputs.branches / temperature, dim=2)).sum(dim=1)


def _cross_entropy(outputs: Outputs, labels: Tensor) -> Tensor:
    """Σ CE(branch), as the mean over images."""
    images, branches, classes = outputs.branches.shape
    repeated = labels.repeat_interleave(branches, dim=0)
    return F.cross_entropy(outputs.branches.reshape(-1, classes), repeated, reduction="sum") / images
