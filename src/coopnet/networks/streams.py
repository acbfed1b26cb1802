"""Parts of a network that do not wait for each other, side by side on a GPU.

Branches of a small network leave most of a large GPU idle. In a CUDA graph each gets a stream of its own, so that their
kernels may run at the same time, forward and backward (PyTorch runs a backward kernel on its forward one's stream). The
kernels are those of one stream, and so are the bits. Outside a graph launching is what takes the time, and streams
would bring nothing.

In fp32 branches run one after another: cuDNN then computes BatchNorm by kernels that wait for all their blocks to be
running, and two of them at once may wait for each other. In bf16 PyTorch's own kernels do it, which never wait.
"""

import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from coopnet.files.errors import CoopNetError

LAUNCH = "COOPNET_LAUNCH"
MODES = ("graph", "serial", "eager")
"""How work reaches a GPU: as CUDA graphs with branches side by side, as graphs without, or by single operations."""


def launch_mode() -> str:
    """One of `MODES`, as `COOPNET_LAUNCH` says; the first by default. The bits are the same.

    Raises:
        CoopNetError: it says something else.
    """
    mode = os.environ.get(LAUNCH) or MODES[0]
    if mode not in MODES:
        raise CoopNetError(f"{LAUNCH} is {mode!r}; set it to {', '.join(MODES[:-1])} or {MODES[-1]}")
    return mode


def side_by_side(modules: Iterable[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What each module makes of its input, in their order."""
    if len(inputs) == 1 or not (inputs[0].is_cuda and _streams_are_worth_it()):
        return [module(one) for module, one in zip(modules, inputs, strict=True)]
    here, outputs = torch.cuda.current_stream(), []
    streams = [torch.cuda.Stream() for _ in inputs]
    for module, one, stream in zip(modules, inputs, streams, strict=True):
        stream.wait_stream(here)
        one.record_stream(stream)  # its memory is not given away before that stream is done with it
        with torch.cuda.stream(stream):
            outputs.append(module(one))
    for output, stream in zip(outputs, streams, strict=True):
        here.wait_stream(stream)
        output.record_stream(here)
    return outputs


def _streams_are_worth_it() -> bool:
    """Whether a graph is being recorded, in bf16 and in the mode that allows streams."""
    capturing = torch.cuda.is_current_stream_capturing() and torch.is_autocast_enabled("cuda")
    return capturing and launch_mode() == "graph"
