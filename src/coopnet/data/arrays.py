"""Images and labels in memory, or memory-mapped from a file."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """One split: `images` uint8 [N, H, W, 3], `labels` int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


class Ordered(NamedTuple):
    """One split of arrays that may hold more images: `order` [n] has its indices, in canonical order."""

    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray


class Source(NamedTuple):
    """The content of a source: both splits, and the class names in the order of their labels."""

    splits: Mapping[str, Ordered]
    class_names: tuple[str, ...]


Allocate = Callable[[int, int], np.ndarray]
"""Allocates uint8 [N, size, size, 3] for a number of images and a size, in memory shared with child processes."""
