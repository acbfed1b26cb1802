"""The canonical order of images, and the digest of ordered content."""

import hashlib
from collections.abc import Iterator

import numpy as np

IN_MEMORY = 2**30
"""Bytes. Up to this size, images are compared in memory; larger sets are read again for every comparison."""

PIECE = 2**25
"""Bytes of images that are processed at a time, where their number does not matter."""

MANY_CLASSES = 256
"""Up to this number of classes a label is one byte, above it two."""


def canonical_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Permutation [N] that sorts by label, then by the image's bytes (unsigned, row-major, lexicographic).

    Args:
        images: uint8 [N, …], in memory or memory-mapped.
        labels: integers [N].
    """
    # Python compares bytes exactly as the definition requires, and 50,000 images take well under a second.
    content = bytes if images.nbytes <= IN_MEMORY else _Content
    keys = [(label, content(_view(image))) for label, image in zip(labels.tolist(), images, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


class _Content:
    """A sort key that compares an image by its bytes without copying them."""

    __slots__ = ("image",)

    def __init__(self, image: memoryview):
        self.image = image

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and self.image == other.image

    def __lt__(self, other: "_Content") -> bool:
        return bytes(self.image) < bytes(other.image)


def _view(image: np.ndarray) -> memoryview:
    return np.ascontiguousarray(image).data.cast("B")


def pieces(images: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """The images in a given order, some at a time."""
    step = max(1, PIECE // max(1, images[:1].nbytes))
    for first in range(0, len(order), step):
        yield images[order[first : first + step]]


def packed(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels as they are written and digested: one byte each; two, little-endian, above 256 classes."""
    return labels.astype("u1" if classes <= MANY_CLASSES else "<u2")


def content_digest(
    images: np.ndarray, labels: np.ndarray, classes: int = MANY_CLASSES, order: np.ndarray | None = None
) -> str:
    """Hex SHA-256 of a split: its labels (`packed`), then its images' bytes, both in canonical order.

    Args:
        images: uint8 [N, …], in any order.
        labels: integers 0..classes-1 [N].
        classes: number of classes of the dataset.
        order: the result of `canonical_order` for these images or a part of them, if it is already known.
    """
    if order is None:
        order = canonical_order(images, labels)
    digest = hashlib.sha256(packed(labels[order], classes).tobytes())
    for piece in pieces(images, order):
        digest.update(piece.tobytes())
    return digest.hexdigest()


def channel_statistics(images: np.ndarray, order: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (divided by N) of each channel, pixels in 0..1, to seven digits.

    They are computed from exact counts of the 256 levels, so the result depends neither on order nor on the machine.
    """
    levels = np.zeros((3, 256), dtype=np.int64)
    for piece in pieces(images, order):
        for channel in range(3):
            levels[channel] += np.bincount(piece[..., channel].ravel(), minlength=256)
    values, counts = np.arange(256), levels.sum(axis=1)
    total = [int(one @ values) for one in levels]
    squares = [int(one @ values**2) for one in levels]
    means = [t / (255 * int(n)) for t, n in zip(total, counts, strict=True)]
    spread = [int(n) * s - t * t for n, s, t in zip(counts, squares, total, strict=True)]  # n² times the variance
    stds = [float(v) ** 0.5 / (255 * int(n)) for v, n in zip(spread, counts, strict=True)]
    return [round(mean, 7) for mean in means], [round(std, 7) for std in stds]
