"""A recorder for the CPU that repeats work like a CUDA graph: the same operations on the same memory.

It records every operation that reaches PyTorch's dispatcher, with the tensors that it read and wrote. A replay runs
each operation again and writes its results into the recorded memory. So a Python number that should have changed, a
branch that depends on a value, or a tensor that was replaced instead of filled fails here as it would in a graph. An
operation that a graph cannot contain, because it waits for the device, is refused.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.nodes import Census


class Tape(Census):
    """Records what is dispatched, with all tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        made = super().__torch_dispatch__(function, types, args, kwargs)
        self.calls.append((function, args, kwargs or {}, made))
        return made


def storages(values: Any) -> set[int]:
    """The storages of all tensors in a structure."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


class Replayer:
    """A recorder, as `coopnet.training.graph` needs it.

    Attributes:
        made: all recorders, in order of their creation.
        replays: number of replays.
    """

    made: ClassVar[list["Replayer"]] = []

    def __init__(self) -> None:
        self.tape = Tape()
        self.replays = 0
        Replayer.made.append(self)

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work."""
        work()

    def record(self, work: Callable[[], None]) -> None:
        """Record the work. Unlike a graph this also runs the work, so the first replay does nothing.

        A graph recorded in inference mode keeps the random state, and no other graph can then be recorded outside
        inference mode (https://github.com/pytorch/pytorch/issues/166792).
        """
        assert not torch.is_inference_mode_enabled()
        with self.tape:
            work()

    def replay(self) -> None:
        """Repeat the recorded work on the same memory."""
        self.replays += 1
        if self.replays > 1:
            with torch.no_grad():
                for call in self.tape.calls:
                    again(*call)


def again(function: Any, args: Any, kwargs: Any, made: Any) -> None:
    """Repeat an operation; results that are neither views of inputs nor in place are written to their old memory."""
    for old, new in zip(tree_leaves(made), tree_leaves(function(*args, **kwargs)), strict=True):
        if isinstance(old, Tensor) and not storages(old) & storages((args, kwargs)):
            old.copy_(new)


class Repeater:
    """A recorder that calls the work each time."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work."""
        work()

    def record(self, work: Callable[[], None]) -> None:
        """Store the work."""
        self.work = work

    def replay(self) -> None:
        """Run the work."""
        self.work()
