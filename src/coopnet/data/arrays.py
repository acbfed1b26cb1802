"""Images and labels in memory, or mapped from a file."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """One split: `images` uint8 [N, H, W, 3], `labels` int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


class Ordered(NamedTuple):
    """One split out of arrays that may hold more: `order` [n] are the indices of its images, in canonical order."""

    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray


class Source(NamedTuple):
    """What a source holds: both splits, and the names of the classes in the order of their labels."""

    splits: Mapping[str, Ordered]
    class_names: tuple[str, ...]


Room = Callable[[int, int], np.ndarray]
"""Gives uint8 [N, size, size, 3] for a number of images and a size, in memory that child processes share."""
