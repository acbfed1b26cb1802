"""Independent parts of a network, run in parallel on a GPU.

Branches of a small network leave most of a large GPU idle. In a CUDA graph each branch gets its own stream, so that
their kernels may run at the same time, forward and backward (PyTorch runs a backward kernel on its forward kernel's
stream). The kernels, and therefore the bits, are those of a single stream. Outside a graph the launches take the time,
so streams would not help.

In fp32 branches run one after another: cuDNN then computes BatchNorm with kernels that wait until all their blocks are
running, and two of them at once could wait for each other. In bf16 PyTorch's own kernels compute it, which never wait.
"""

import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from coopnet.files.errors import CoopNetError

LAUNCH = "COOPNET_LAUNCH"
MODES = ("graph", "serial", "eager")
"""Launch modes on a GPU: CUDA graphs with parallel branches, CUDA graphs without, or single operations."""


def launch_mode() -> str:
    """The launch mode of `COOPNET_LAUNCH`; by default the first of `MODES`. The bits are the same in all of them.

    Raises:
        CoopNetError: it is none of `MODES`.
    """
    mode = os.environ.get(LAUNCH) or MODES[0]
    if mode not in MODES:
        raise CoopNetError(f"{LAUNCH} is {mode!r}; set it to {', '.join(MODES[:-1])} or {MODES[-1]}")
    return mode


def side_by_side(modules: Iterable[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output of each module for its input, in order."""
    if len(inputs) == 1 or not (inputs[0].is_cuda and _streams_are_worth_it()):
        return [module(one) for module, one in zip(modules, inputs, strict=True)]
    here, outputs = torch.cuda.current_stream(), []
    streams = [torch.cuda.Stream() for _ in inputs]
    for module, one, stream in zip(modules, inputs, streams, strict=True):
        stream.wait_stream(here)
        one.record_stream(stream)  # its memory is not reused before that stream has finished
        with torch.cuda.stream(stream):
            outputs.append(module(one))
    for output, stream in zip(outputs, streams, strict=True):
        here.wait_stream(stream)
        output.record_stream(here)
    return outputs


def _streams_are_worth_it() -> bool:
    """Whether a graph is being recorded, in bf16 and in a mode that allows streams."""
    if torch.compiler.is_compiling():  # it cannot trace the question below
        return False
    capturing = torch.cuda.is_current_stream_capturing() and torch.is_autocast_enabled("cuda")
    return capturing and launch_mode() == "graph"
