"""The loss of each epoch: kind and weight of the distillation."""

import torch
from torch import Tensor

from coopnet.networks.loss import Teaching, rampup
from coopnet.study.settings import Distillation, NoDistillation, OnTheFly
from coopnet.training.graph import number


class Objective:
    """The loss that a run minimises.

    Args:
        distillation: the setting of the run's row.
        gated: whether the network has an ensemble that is trained besides the branches.
        device: of the steps. If they are replayed, the weight is a tensor on it.
    """

    def __init__(self, distillation: Distillation, gated: bool, device: torch.device):
        self.distillation, self.gated = distillation, gated
        self.scalar = number(1.0, device)

    def weight(self, epoch: int) -> float:
        """r, the weight of the distillation in an epoch (from 0)."""
        if isinstance(self.distillation, OnTheFly):
            return rampup(epoch, self.distillation.rampup)
        return 0.0 if isinstance(self.distillation, NoDistillation) else 1.0

    def at(self, weight: float) -> Teaching:
        """The loss with that weight."""
        if isinstance(self.distillation, NoDistillation):
            return Teaching("none", self.gated, weight=weight)
        if isinstance(self.scalar, Tensor):
            self.scalar.fill_(weight)
        else:
            self.scalar = weight
        return Teaching(self.distillation.kind, self.gated, self.distillation.temperature, self.scalar)
