"""Work on a batch as single operations, or on a GPU as one CUDA graph that is replayed.

The kernels of small networks take a few microseconds each, less than Python takes to launch the next one. A graph is
launched as a whole. It is recorded once and repeats the same kernels on the same memory. Therefore

- everything that differs between batches is copied into fixed tensors, and so is any number that changes (`number`),
  since a graph keeps Python numbers as they were when it was recorded;
- each batch size has its own graph: the full one, and the smaller one at the end of an epoch.

`COOPNET_LAUNCH` chooses how a GPU gets its work (`coopnet.networks.streams`). The bits are the same either way.

Source: the PyTorch manual, CUDA semantics, "CUDA Graphs".
"""

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from coopnet.files.errors import RecordingFailed, out_of_memory
from coopnet.networks.streams import MODES, launch_mode

WARM_UP = 3
"""Batches that run as single operations before the recording, so that libraries create handles and workspaces first."""


class Recorder(Protocol):
    """Records some work and repeats it."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work in the environment of the recording, without recording it."""

    def record(self, work: Callable[[], None]) -> None:
        """Record the work without doing it."""

    def replay(self) -> None:
        """Do the recorded work."""


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

        No other graph may be freed during the recording, so unused graphs are freed before it.
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
        """Launch the graph on the current stream."""
        self.graph.replay()


RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaGraph}
"""Recorders by type of device; on other devices a launch costs little compared with the work."""


def number(value: float, device: torch.device) -> float | Tensor:
    """A number that may change from batch to batch: a float32 scalar on the device if work is replayed there."""
    return torch.tensor(value, dtype=torch.float32, device=device) if device.type in RECORDERS else value


class GraphedStep:
    """Runs some work on batch after batch.

    Args:
        work: receives the tensors of a batch, leaves its results in fixed tensors, and never waits for the device.
        device: of the tensors.
    """

    def __init__(self, work: Callable[..., None], device: torch.device):
        self.work = work
        recorded = launch_mode() != "eager" and device.type in RECORDERS
        self.recorder = RECORDERS[device.type] if recorded else None
        self.graphs: dict[int, _Graph] = {}

    def __call__(self, *batch: Tensor) -> None:
        """Run the work on a batch.

        Raises:
            RecordingFailed: the work could not be recorded, and this process can no longer use its GPU.
        """
        if self.recorder is None:
            self.work(*batch)
            return
        size = len(batch[0])
        if size not in self.graphs:
            self.graphs[size] = _Graph(self.work, self.recorder(), batch)
        self.graphs[size](*batch)


def _first(error: BaseException) -> BaseException:
    """The error behind an error: PyTorch ends a recording even after an error, which raises another, vague one."""
    cause = error.__cause__ or error.__context__
    return error if cause is None else _first(cause)


class _Graph:
    """Work on batches of one size, recorded after the first few of them."""

    def __init__(self, work: Callable[..., None], recorder: Recorder, batch: tuple[Tensor, ...]):
        self.work, self.recorder = work, recorder
        self.inputs = tuple(torch.empty_like(tensor) for tensor in batch)
        self.done = 0

    def __call__(self, *batch: Tensor) -> None:
        for mine, given in zip(self.inputs, batch, strict=True):
            mine.copy_(given)
        if self.done < WARM_UP:
            self.recorder.warm_up(self._work)
        else:
            if self.done == WARM_UP:
                self._record()
            self.recorder.replay()
        self.done += 1

    def _record(self) -> None:
        try:
            self.recorder.record(self._work)
        except Exception as error:
            if out_of_memory(error) is not None:  # another mode would not have more memory
                raise
            mode, first = launch_mode(), _first(error)
            reason = f"{type(first).__name__}: {' '.join(str(first).split())[:200]}"
            raise RecordingFailed(reason, mode, MODES[MODES.index(mode) + 1]) from error

    def _work(self) -> None:
        self.work(*self.inputs)
