"""Everything that changes during a run, as functions of epoch or step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def learning_rate(base: float, milestones: Sequence[int], gamma: float, epoch: int) -> float:
    """`base`, multiplied by `gamma` for each milestone that `epoch` (from 0) has reached."""
    return base * gamma ** sum(epoch >= milestone for milestone in milestones)


@dataclass(frozen=True)
class Opening:
    """How the log-prior of new branches goes from −∞ to 0: α is 0, then rises linearly to 1.

    Attributes:
        branches: the branches that open, from 0.
        closed_until: fraction of the steps before which α is 0.
        open_from: fraction of the steps from which α is 1.
    """

    branches: tuple[int, ...]
    closed_until: float
    open_from: float

    def alpha(self, step: int, steps: int) -> float:
        """α in step `step` (from 0) of `steps`."""
        share = step / steps
        if share < self.closed_until:
            return 0.0
        if share >= self.open_from:
            return 1.0
        return (share - self.closed_until) / (self.open_from - self.closed_until)

    def log_priors(self, log_prior: Tensor, steps: int) -> Tensor:
        """The whole schedule, [steps + 1, B]: row s for step s, the last row for the trained network.

        Args:
            log_prior: [B], of the network at transfer; branches that do not open keep theirs.
            steps: number of training steps.
        """
        # The logarithm is that of α in float32, never of a gate weight. torch.log(0) is −∞; math.log(0) raises.
        alphas = torch.tensor([self.alpha(s, steps) for s in range(steps + 1)], dtype=torch.float32)
        table = log_prior.cpu().repeat(steps + 1, 1)
        table[:, list(self.branches)] = torch.log(alphas).unsqueeze(1)
        assert torch.isfinite(table).any(dim=1).all(), "at least one branch is live in every step"
        return table


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches per epoch. A last batch with a single image is left out, because BatchNorm has no variance there."""
    return math.ceil(images / batch_size) - (images % batch_size == 1)
