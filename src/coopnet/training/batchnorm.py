"""BatchNorm over the whole batch, where each process has only a share of it.

`torch.nn.SyncBatchNorm` does this for GPUs only. As there, the statistics are those of all images of the batch, and
gradients flow through them to all processes.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from coopnet.training.group import Group


class GlobalBatchNorm(_BatchNorm):
    """A BatchNorm whose mean and variance are taken over all processes; in eval mode it is the one it was made of."""

    group: Group

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, …] → the same shape and type; n may be 0 here, as long as the whole batch has two values a channel."""
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        over, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        mine = values.new_tensor([x.numel() // x.shape[1]])
        sums, count = self.group.sum(torch.cat([values.sum(over), mine])).split([x.shape[1], 1])
        count = count.detach()
        mean = sums / count
        centred = values - mean.view(shape)
        variance = self.group.sum(centred.square().sum(over)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, which evaluation goes by, towards those of a batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


def share_statistics(network: nn.Module, group: Group) -> None:
    """Make every BatchNorm of a network one over all processes; its tensors and their names stay what they are."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = GlobalBatchNorm
            module.group = group  # type: ignore[assignment]
