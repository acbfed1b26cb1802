"""How work on a batch reaches the device: operation by operation, or on a GPU as one CUDA graph that is replayed.

The kernels of small networks take a few microseconds each, less than Python takes to launch the next one. A graph is
launched whole. It is recorded once and repeats the same kernels on the same memory, so

- what differs from batch to batch is copied into tensors that stay where they are, and so is any number that changes
  (`number`), since a graph keeps Python's numbers as they were;
- a batch of another size, as the last one of an epoch, goes operation by operation. The bits are the same either way.

Source: the PyTorch manual, CUDA semantics, "CUDA Graphs".
"""

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 3
"""Batches that go operation by operation before the recording, so that libraries have their handles and workspaces."""


class Recorder(Protocol):
    """Keeps some work, to repeat it."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work where it will be recorded."""

    def record(self, work: Callable[[], None]) -> None:
        """Keep the work without doing it."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """A CUDA graph on the current GPU."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work on the stream of the recording."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> None:
        """Record the work; it must neither wait for the device nor allocate outside PyTorch.

        Nor may another graph be freed meanwhile: those that nobody needs any more are freed before.
        """
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            with torch.cuda.graph(self.graph, stream=self.stream):
                work()
        finally:
            if collecting:
                gc.enable()

    def replay(self) -> None:
        """GraphedStep the graph on the current stream."""
        self.graph.replay()


RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaGraph}
"""By type of device; elsewhere a launch costs little beside the work."""


def number(value: float, device: torch.device) -> float | Tensor:
    """A number that may change from batch to batch: where work is replayed, a float32 scalar on the device."""
    return torch.tensor(value, dtype=torch.float32, device=device) if device.type in RECORDERS else value


class GraphedStep:
    """Does some work on batch after batch.

    Args:
        work: takes the tensors of a batch, leaves what it makes in tensors that stay where they are, and never waits.
        size: of a full batch, along the first dimension.
        device: of the tensors.
    """

    def __init__(self, work: Callable[..., None], size: int, device: torch.device):
        self.work, self.size = work, size
        self.recorder = RECORDERS[device.type]() if device.type in RECORDERS else None
        self.inputs: tuple[Tensor, ...] = ()
        self.done = 0

    def __call__(self, *batch: Tensor) -> None:
        """Do the work on a batch."""
        if self.recorder is None or len(batch[0]) != self.size:
            self.work(*batch)
            return
        if not self.inputs:
            self.inputs = tuple(torch.empty_like(tensor) for tensor in batch)
        for mine, given in zip(self.inputs, batch, strict=True):
            mine.copy_(given)
        if self.done < WARM_UP:
            self.recorder.warm_up(self._work)
        else:
            if self.done == WARM_UP:
                self.recorder.record(self._work)
            self.recorder.replay()
        self.done += 1

    def _work(self) -> None:
        self.work(*self.inputs)
