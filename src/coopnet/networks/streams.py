"""Parts of a network that do not wait for each other, side by side on a GPU.

Branches of a small network leave most of a large GPU idle. In a CUDA graph each gets a stream of its own, so that their
kernels may run at the same time, forward and backward (PyTorch runs a backward kernel on its forward one's stream). The
kernels are those of one stream, and so are the bits. Outside a graph launching is what takes the time, and streams
would bring nothing.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def side_by_side(modules: Iterable[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What each module makes of its input, in their order."""
    if len(inputs) == 1 or not (inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()):
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
