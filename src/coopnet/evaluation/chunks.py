"""Images a thousand at a time: what is made of them on the way stays in the processor's cache."""

from collections.abc import Callable, Sequence

import numpy as np

CHUNK = 1000


def in_chunks(work: Callable[..., Sequence[np.ndarray]], *arrays: np.ndarray) -> list[np.ndarray]:
    """What `work` makes of arrays of N images, whose results have an entry per image too."""
    starts = range(0, len(arrays[0]), CHUNK)
    pieces = [work(*(array[start : start + CHUNK] for array in arrays)) for start in starts]
    return [np.concatenate(piece) for piece in zip(*pieces, strict=True)]
