"""Where the images and labels of the known datasets come from.

Every source gives the same images; only their order may differ.
"""

import math
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coopnet.data import official, shards, svhn
from coopnet.data.arrays import Arrays, Ordered, Room, Source
from coopnet.data.datasets import SPLITS, Dataset
from coopnet.data.order import canonical_order
from coopnet.files import confined
from coopnet.files.errors import CoopNetError

MEMORY, COPIES = 2**30, 6
"""What decoding a split may take: bytes for Arrow or SciPy, and copies of its images (decoded, joined)."""

SECONDS = 600
"""Processor time that decoding a split may take; that of 50,000 images takes some 10 s."""


def in_memory(count: int, size: int) -> np.ndarray:
    """Room for images (`arrays.Room`) in memory."""
    shape = (count, size, size, 3)
    return np.frombuffer(mmap.mmap(-1, max(1, math.prod(shape))), dtype=np.uint8, count=math.prod(shape)).reshape(shape)


def read_all(dataset: Dataset, source: str, root: Path | None, room: Room) -> Source:
    """Read all of a dataset.

    Args:
        dataset: what to read.
        source: one of `dataset.sources`.
        root: folder of the download or of the shards; of one's own data, where it is not `dataset.path`.
        room: for the images.

    Raises:
        CoopNetError: no such source, or what it holds is missing, damaged or of another form.
    """
    if dataset.own:
        from coopnet.data import own

        _check(dataset, source)
        return own.read(dataset, source, root or Path(dataset.path), room)
    splits = {}
    for split in SPLITS:
        images, labels = read(dataset, split, source, root, room)
        splits[split] = Ordered(images, labels, canonical_order(images, labels))
    return Source(splits, dataset.class_names)


def read(dataset: Dataset, split: str, source: str, root: Path | None, room: Room = in_memory) -> Arrays:
    """Read one split of a dataset, in whatever order the source has it.

    Args:
        dataset: what to read.
        split: `train` or `test`.
        source: one of `dataset.sources`.
        root: folder of the download (`torchvision`, `matlab`) or of the shards (`parquet`); `digits` needs none.
        room: for the images.

    Raises:
        CoopNetError: no such source, or what it holds is missing, damaged or of another form.
    """
    _check(dataset, source)
    return SOURCES[source](dataset, split, root, room)


def _check(dataset: Dataset, source: str) -> None:
    if source not in dataset.sources:
        known = ", ".join(dataset.sources)
        raise CoopNetError(f"{dataset.name} has no source {source!r}; --source can be: {known}")


def read_digits(dataset: Dataset, split: str, root: Path | None, room: Room) -> Arrays:
    """The 8×8 handwritten digits that ship in scikit-learn, each pixel enlarged to 4×4, grey as RGB.

    Grey levels 0..16 become 0..255 in whole numbers, halves rounded up. The split is a fixed rule: of the
    images of a class, in scikit-learn's order, every fifth is a test image.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    images = grey.repeat(4, axis=1).repeat(4, axis=2)[..., np.newaxis].repeat(3, axis=3)
    labels = digits.target.astype(np.int64)
    chosen = _every_fifth_of_a_class(labels) == (split == "test")
    return Arrays(images[chosen], labels[chosen])


def _every_fifth_of_a_class(labels: np.ndarray) -> np.ndarray:
    """Boolean mask [N], true for the 5th, 10th, … image of each class."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[4::5]] = True
    return mask


def read_torchvision(dataset: Dataset, split: str, root: Path | None, room: Room) -> Arrays:
    """The official CIFAR archive, as torchvision knows it, downloaded into `root` unless it is there.

    Raises:
        CoopNetError: no `root`, the download failed, or the archive is not the official one.
    """
    if root is None:
        raise CoopNetError("the source torchvision needs a folder to download into: give --root FOLDER")
    return official.read(dataset, split, root)


def read_matlab(dataset: Dataset, split: str, root: Path | None, room: Room) -> Arrays:
    """The official files of SVHN, as torchvision knows them, downloaded into `root` unless they are there.

    Raises:
        CoopNetError: no `root`, the download failed, or a file is not the official one.
    """
    if root is None:
        raise CoopNetError("the source matlab needs a folder to download into: give --root FOLDER")
    path = svhn.official_file(split, root)
    memory = MEMORY + COPIES * math.prod((dataset.counts[split], dataset.size, dataset.size, 3))
    images, labels = room(dataset.counts[split], dataset.size), np.zeros(0, dtype=np.int64)

    def unpacked() -> list[bytes]:
        found = svhn.unpacked(path)
        if len(found.labels) != len(images):
            raise CoopNetError(f"{path} has {len(found.labels)} images instead of {len(images)}; get it again")
        images[:] = found.images
        return [found.labels.astype(np.int64).tobytes()]

    (said,) = confined.run(unpacked, path, memory=memory, seconds=SECONDS)
    labels = np.frombuffer(said, dtype=np.int64)
    return Arrays(images, labels)


def read_parquet(dataset: Dataset, split: str, root: Path | None, room: Room) -> Arrays:
    """A folder of shards in the Hugging Face layout (`shards`), whose images are files without loss, 32×32 RGB.

    They are decoded in a process that can take no more memory than the dataset needs, and no more time than
    `SECONDS`.

    Raises:
        CoopNetError: no such folder or shard; a shard is damaged, lacks a column, has an image that is not
            32×32 RGB, or takes too much memory or time.
    """
    if root is None:
        raise CoopNetError("the source parquet needs the folder of the shards: give --root FOLDER")
    paths, expected = shards.of_split(root, split), dataset.counts[split]
    images, labels = room(expected, dataset.size), []
    memory = MEMORY + COPIES * images.nbytes

    def decoded() -> list[bytes]:
        found = 0
        for path in paths:
            for batch in shards.batches(path, dataset.label_column, shards.exactly(dataset.size)):
                found += len(batch.labels)
                if found <= expected:  # any more are counted alone
                    images[found - len(batch.labels) : found] = batch.images
                labels.append(batch.labels)
        if not found:
            raise CoopNetError(f"{root} has no images in {split}-*.parquet; --root must be the folder of the shards")
        if found != expected:
            raise CoopNetError(
                f"{dataset.name} {split}: {found} images instead of {expected}; is a file missing, or one too many? "
                "Give all of them"
            )
        return [np.concatenate(labels).tobytes()]

    (said,) = confined.run(decoded, root, memory=memory, seconds=SECONDS)
    return Arrays(images, np.frombuffer(said, dtype=np.int64))


SOURCES: dict[str, Callable[[Dataset, str, Path | None, Room], Arrays]] = {
    "digits": read_digits,
    "torchvision": read_torchvision,
    "matlab": read_matlab,
    "parquet": read_parquet,
}
