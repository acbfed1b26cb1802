"""The sources of the known datasets.

Every source gives the same images; only their order may differ.
"""

import math
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coopnet.data import official, shards, svhn
from coopnet.data.arrays import Allocate, Arrays, Ordered, Source
from coopnet.data.datasets import SPLITS, Dataset
from coopnet.data.order import canonical_order
from coopnet.files import confined
from coopnet.files.errors import CoopNetError

MEMORY, COPIES = 2**30, 6
"""Memory limit for decoding a split: bytes for Arrow or SciPy, and copies of its images (decoded, joined)."""

SECONDS = 600
"""Limit of processor time for decoding a split; 50,000 images take about 10 s."""


def in_memory(count: int, size: int) -> np.ndarray:
    """Allocate images (`arrays.Allocate`) in memory."""
    shape = (count, size, size, 3)
    return np.frombuffer(mmap.mmap(-1, max(1, math.prod(shape))), dtype=np.uint8, count=math.prod(shape)).reshape(shape)


def read_all(dataset: Dataset, source: str, root: Path | None, allocate: Allocate, processes: int = 1) -> Source:
    """Read all of a dataset.

    Args:
        dataset: the dataset to read.
        source: one of `dataset.sources`.
        root: folder of the download or of the shards; for a user's own data by default `dataset.path`.
        allocate: allocates the images.
        processes: number of them that decode a user's own images at the same time. The result does not depend on it.

    Raises:
        CoopNetError: there is no such source, or its content is missing, damaged or of another form.
    """
    if source not in dataset.sources:
        known = ", ".join(dataset.sources)
        raise CoopNetError(f"{dataset.name} has no source {source!r}; --source can be: {known}")
    if dataset.own:
        from coopnet.data import own

        return own.READERS[source](dataset, root or Path(dataset.path), allocate, processes)
    if root is None and source != "digits":
        raise CoopNetError(f"the source {source} needs a folder, of the download or of the shards: give --root FOLDER")
    splits = {}
    for split in SPLITS:
        images, labels = SOURCES[source](dataset, split, root or Path(), allocate)
        splits[split] = Ordered(images, labels, canonical_order(images, labels))
    return Source(splits, dataset.class_names)


def read_digits(dataset: Dataset, split: str, root: Path, allocate: Allocate) -> Arrays:
    """The 8×8 handwritten digits of scikit-learn, each pixel enlarged to the dataset's size, grey as RGB.

    Grey levels 0..16 become integers 0..255, halves rounded up. The split is a fixed rule: of the images of a class, in
    scikit-learn's order, every fifth is a test image.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    times = dataset.size // 8
    images = grey.repeat(times, axis=1).repeat(times, axis=2)[..., np.newaxis].repeat(3, axis=3)
    labels = digits.target.astype(np.int64)
    chosen = _every_fifth_of_a_class(labels) == (split == "test")
    return Arrays(images[chosen], labels[chosen])


def _every_fifth_of_a_class(labels: np.ndarray) -> np.ndarray:
    """Boolean mask [N], true for the 5th, 10th, … image of each class."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[4::5]] = True
    return mask


def read_matlab(dataset: Dataset, split: str, root: Path, allocate: Allocate) -> Arrays:
    """The official files of SVHN, as torchvision knows them, downloaded into `root` if they are missing.

    Raises:
        CoopNetError: the download failed, or a file is not the official one.
    """
    path = svhn.official_file(split, root)
    memory = MEMORY + COPIES * math.prod((dataset.counts[split], dataset.size, dataset.size, 3))
    images = allocate(dataset.counts[split], dataset.size)

    def unpacked() -> list[bytes]:
        found = svhn.unpacked(path)
        if len(found.labels) != len(images):
            raise CoopNetError(f"{path} has {len(found.labels)} images instead of {len(images)}; get it again")
        images[:] = found.images
        return [found.labels.astype(np.int64).tobytes()]

    (content,) = confined.run(unpacked, path, memory=memory, seconds=SECONDS)
    labels = np.frombuffer(content, dtype=np.int64)
    return Arrays(images, labels)


def read_parquet(dataset: Dataset, split: str, root: Path, allocate: Allocate) -> Arrays:
    """A folder of shards in the Hugging Face layout (`shards`) with lossless images of the dataset's size.

    They are decoded in a process whose memory is limited to what the dataset needs, and its time to `SECONDS`.

    Raises:
        CoopNetError: there is no such folder or shard; a shard is damaged, lacks a column, has an image of another
            size or form, or needs too much memory or time.
    """
    paths, expected = shards.of_split(root, split), dataset.counts[split]
    images, labels = allocate(expected, dataset.size), []
    memory = MEMORY + COPIES * images.nbytes

    def decoded() -> list[bytes]:
        found = 0
        for path in paths:
            for batch in shards.batches(path, dataset.label_column, shards.exactly(dataset.size)):
                found += len(batch.labels)
                if found <= expected:  # surplus images are only counted
                    images[found - len(batch.labels) : found] = batch.images
                labels.append(batch.labels)
        if not found:
            raise CoopNetError(f"{root} has no images in {split}-*.parquet; --root must be the folder of the shards")
        if found != expected:
            raise CoopNetError(
                f"{dataset.name} {split}: {found} images instead of {expected}; "
                "give all files of the split, and no others"
            )
        return [np.concatenate(labels).tobytes()]

    (content,) = confined.run(decoded, root, memory=memory, seconds=SECONDS)
    return Arrays(images, np.frombuffer(content, dtype=np.int64))


SOURCES: dict[str, Callable[[Dataset, str, Path, Allocate], Arrays]] = {
    "digits": read_digits,
    "torchvision": lambda dataset, split, root, allocate: official.read(dataset, split, root),
    "matlab": read_matlab,
    "parquet": read_parquet,
}
