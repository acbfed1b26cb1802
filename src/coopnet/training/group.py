"""The processes that train one run together (data parallelism), each on its share of every batch.

Whatever is a sum over the images of a batch, gradients, losses, hits, statistics of BatchNorm, is summed over all of
them, so that together they compute what one process would, up to the order of additions. That order is fixed by the
number of processes: all-reduce of gloo adds in the order of its ring.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.autograd import Function

Same = TypeVar("Same")

PATIENCE = timedelta(days=365)
"""For word from the first process, which may have to wait for another process that is on the run."""


class ProcessLost(Exception):
    """Another process of the group is gone."""


@dataclass(frozen=True)
class Group:
    """All processes of a run, as one of them sees them.

    Attributes:
        rank: of this process, from 0; the first one alone writes files and says what happens.
        size: how many there are.
        work: the backend's group for tensors on the device; None where this process is alone.
    """

    rank: int = 0
    size: int = 1
    work: Any = None

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, images: int) -> slice:
        """The part of `images` that is this process's: contiguous, of about equal size, maybe empty."""
        return slice(images * self.rank // self.size, images * (self.rank + 1) // self.size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a contiguous tensor by its sum over all processes, the same bits in each.

        Raises:
            ProcessLost: one of them is gone.
        """
        if self.size > 1:
            with _collective():
                distributed.all_reduce(tensor, group=self.work)
        return tensor

    def sum(self, tensor: Tensor) -> Tensor:
        """The same, differentiable: every process's loss depends on every process's summand."""
        return _Sum.apply(tensor, self)

    def sum_together(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, in one go."""
        if self.size > 1:
            parts = list(tensors)
            flat = self.sum_(torch.cat([part.reshape(-1) for part in parts]))
            for part, total in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
                part.copy_(total.view(part.shape))

    def highest(self, number: int) -> int:
        """The highest of the numbers that the processes give."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number)
        with _collective():
            distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return int(tensor)

    def same(self, value: Same) -> Same:
        """What the first process gives, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        with _collective():
            distributed.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Group()


def join(device_kind: str) -> Group:
    """Meet the other processes, as the environment that torchrun made names them.

    Args:
        device_kind: `cpu` or `cuda`, of the tensors to be summed.
    """
    with _collective():
        distributed.init_process_group("gloo", timeout=PATIENCE)
        work = distributed.new_group(backend="nccl" if device_kind == "cuda" else "gloo")
    if device_kind == "cuda":
        # A process that leased a GPU sees no other; where nobody knows which there are, none is leased.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return Group(distributed.get_rank(), distributed.get_world_size(), work)


class _Sum(Function):
    """An all-reduce whose derivative is an all-reduce."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, group: Group) -> Tensor:
        context.group = group
        return group.sum_(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.group.sum_(gradient.clone(memory_format=torch.contiguous_format)), None


@contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL: a connection was closed, or nothing came in time
        raise ProcessLost(str(error).partition("\n")[0]) from error
