"""Images a thousand at a time: what is made of them on the way stays in the processor's cache."""

from collections.abc import Callable, Sequence

import numpy as np

CHUNK = 500


def in_chunks(work: Callable[..., Sequence[np.ndarray]], *arrays: np.ndarray) -> list[np.ndarray]:
    """What `work` makes of arrays of N images, whose results have an entry per image too."""
    count = len(arrays[0])
    whole: list[np.ndarray] = []
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        made = work(*(array[part] for array in arrays))
        # Not gathered first: memory that is asked for anew takes longer than what is computed in it.
        whole = whole or [np.empty((count, *piece.shape[1:]), piece.dtype) for piece in made]
        for array, piece in zip(whole, made, strict=True):
            array[part] = piece
    return whole
