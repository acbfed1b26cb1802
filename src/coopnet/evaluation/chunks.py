"""Processing images in chunks, so that intermediate results stay in the processor's cache."""

from collections.abc import Callable, Sequence

import numpy as np

CHUNK = 500


def in_chunks(work: Callable[..., Sequence[np.ndarray]], *arrays: np.ndarray) -> list[np.ndarray]:
    """Apply `work` to arrays of N images in chunks; its results have one entry per image too."""
    count = len(arrays[0])
    whole: list[np.ndarray] = []
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        made = work(*(array[part] for array in arrays))
        # Results go straight into the final array: allocating memory for each chunk takes longer than the computation.
        whole = whole or [np.empty((count, *piece.shape[1:]), piece.dtype) for piece in made]
        for array, piece in zip(whole, made, strict=True):
            array[part] = piece
    return whole
