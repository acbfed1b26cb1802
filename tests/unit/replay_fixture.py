"""A recorder for the CPU that repeats work as a CUDA graph does: the same operations, on the same memory.

It keeps every operation that reaches PyTorch's dispatcher, with the very tensors it read and wrote. A replay runs each
again and puts what it makes where the recording put it. So a Python number that should have changed, a branch taken by
a value, or a tensor that was replaced instead of filled goes wrong here as it would in a graph; and an operation that
a graph cannot hold, because it waits for the device, is refused.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select", "unique", "bincount")
"""Operations whose result, or its shape, the host has to wait for."""


class Census(TorchDispatchMode):
    """Counts what is launched: operations by name, but for views of tensors and memory that is only set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it and count it."""
        name = function.overloadpacket.__name__
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the device, which a graph cannot")
        if not function.is_view and "empty" not in name:
            self.launched[name] += 1
        return function(*args, **(kwargs or {}))


class Tape(Census):
    """Writes down what is dispatched, with all tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it and write it down."""
        made = super().__torch_dispatch__(function, types, args, kwargs)
        self.calls.append((function, args, kwargs or {}, made))
        return made


def storages(values: Any) -> set[int]:
    """Of all tensors in a structure."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


class Replayer:
    """A recorder, as `coopnet.training.launch` asks for.

    Attributes:
        made: all of them, in the order they were made.
        replays: how often the work was repeated.
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
        """Write the work down. Unlike a graph it does it at that, so the first replay has nothing left to do."""
        with self.tape:
            work()

    def replay(self) -> None:
        """Do again what was written down, into the same memory."""
        self.replays += 1
        if self.replays > 1:
            with torch.no_grad():
                for call in self.tape.calls:
                    again(*call)


def again(function: Any, args: Any, kwargs: Any, made: Any) -> None:
    """Repeat an operation; what is no view of its inputs, and was not changed in place, is put where it was."""
    for old, new in zip(tree_leaves(made), tree_leaves(function(*args, **kwargs)), strict=True):
        if isinstance(old, Tensor) and not storages(old) & storages((args, kwargs)):
            old.copy_(new)


class Repeater:
    """A recorder that calls the work each time."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work."""
        work()

    def record(self, work: Callable[[], None]) -> None:
        """Keep it."""
        self.work = work

    def replay(self) -> None:
        """Do it."""
        self.work()
