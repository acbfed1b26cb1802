"""A user's own images, in class folders or Parquet shards: scaled to one size, and split if necessary.

Confined processes decode them, each some hundred files or one shard, into memory that they share with this process. So
a dataset may be larger than memory, and no file can use more memory or time than its limits.
"""

import itertools
import json
import logging
import mmap
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from coopnet.data import folder, shards
from coopnet.data.arrays import Allocate, Ordered, Source
from coopnet.data.datasets import SPLITS, Dataset
from coopnet.data.fit import decoded
from coopnet.data.order import PIECE, canonical_order
from coopnet.data.seeding import derive
from coopnet.data.splits import stratified
from coopnet.files import confined
from coopnet.files.errors import CoopNetError

log = logging.getLogger(__name__)

MEMORY = 2**30
"""Bytes that a process may use besides the decoded images."""

SECONDS, IMAGES_PER_SECOND = 600, 4
"""Processor time that a process may use: seconds, plus a second per so many images."""

BATCH = 500
"""Image files that one process decodes. Then it ends, and another one takes its place."""

MOST_CLASSES = 2**16
"""A label has at most two bytes."""

REPORT_EVERY = 10.0  # seconds


# Folders -------------------------------------------------------------------------------------------------------------


def _from_folders(dataset: Dataset, root: Path, allocate: Allocate, processes: int) -> Source:
    trees = {"train": root} if dataset.held_back else {split: root / split for split in SPLITS}
    present = [split for split in SPLITS if (root / split).is_dir()]
    if dataset.held_back and len(present) == 2:
        raise CoopNetError(
            f"{root} has train/ and test/ already; remove datasets.{dataset.name}.test, or give a tree of classes"
        )
    if not dataset.held_back and root.is_dir() and len(present) < 2:
        missing = next(split for split in SPLITS if split not in present)
        raise CoopNetError(
            f"{root} has no folder {missing}/; sort the images into train/CLASS/ and test/CLASS/, or set "
            f"datasets.{dataset.name}.test: {{fraction: 0.2}} to hold back some of CLASS/"
        )
    classes = folder.classes_of(trees["train"])
    _check_number(dataset, len(classes))
    found = {
        split: folder.listed(tree, classes) for split, tree in trees.items()
    }  # all files are listed before any is decoded
    if empty := sorted(set(range(len(classes))) - set(found["train"].labels)):
        first = trees["train"] / classes[empty[0]]
        raise CoopNetError(f"{first} has no images to train on; add some, or remove the folder")
    read_ = {split: _decoded_files(dataset, split, files, allocate, processes) for split, files in found.items()}
    listed = {split: found["train" if dataset.held_back else split].files for split in SPLITS}
    return _with_warnings(
        dataset, Source(_split(dataset, read_), tuple(classes)), lambda split, number: str(listed[split][number])
    )


def _decoded_files(dataset: Dataset, split: str, found: folder.Listed, allocate: Allocate, processes: int) -> Ordered:
    """Decode the images of some files."""
    images, files = allocate(len(found.files), dataset.size), found.files
    report = _progress(dataset.name, split, len(files))

    def reader(batch: range) -> confined.Reader:
        place = np.frombuffer(mmap.mmap(-1, 8), dtype=np.int64)  # index of the current file, shared with the child

        def work() -> list[bytes]:
            for number in batch:
                place[0] = number
                images[number] = decoded(files[number], dataset.size, str(files[number]))
            return []

        return confined.Reader(work, lambda: files[int(place[0])], memory=MEMORY, seconds=_seconds(len(batch)))

    batches = [range(len(files))[first : first + BATCH] for first in range(0, len(files), BATCH)]
    for batch, _ in zip(batches, confined.in_turn(map(reader, batches), processes), strict=True):
        report(batch.stop)
    return _ordered(images, np.array(found.labels, dtype=np.int64))


# Shards --------------------------------------------------------------------------------------------------------------


def _from_shards(dataset: Dataset, root: Path, allocate: Allocate, processes: int) -> Source:
    paths = {split: shards.of_split(root, split) for split in SPLITS}
    if dataset.held_back and paths["test"]:
        raise CoopNetError(f"{paths['test'][0]} holds test images; remove datasets.{dataset.name}.test")
    for split in ("train",) if dataset.held_back else SPLITS:
        if not paths[split]:
            raise CoopNetError(
                f"{root} has no shards {split}-*.parquet; give the folder that holds them, or hold back test images "
                f"with datasets.{dataset.name}.test: {{fraction: 0.2}}"
            )
    read_: dict[str, Ordered] = {}
    names: tuple[str, ...] = ()
    for split, some in paths.items():
        if some:
            read_[split], named = _decoded_shards(dataset, split, some, root, allocate, processes)
            if names and named and named != names:
                raise CoopNetError(
                    f"{root}: the shards of {split} name their classes differently from those of train; give shards of "
                    "one dataset"
                )
            names = names or named
    labels = np.unique(read_["train"].labels)
    if not 0 <= labels[0] <= labels[-1] < MOST_CLASSES:
        raise CoopNetError(f"{root}: labels {labels[0]} to {labels[-1]} are not 0 to {MOST_CLASSES - 1}; correct them")
    names = names or tuple(str(label) for label in range(int(labels[-1]) + 1))
    _check_number(dataset, len(names))
    for split, part in read_.items():
        outside = np.setdiff1d(part.labels, labels)
        if outside.size:
            raise CoopNetError(f"{root}: label {outside[0]} of {split} has no training images; add some, or remove it")
    lacking = np.setdiff1d(np.arange(len(names)), labels)
    if lacking.size:
        raise CoopNetError(f"{root}: class {names[lacking[0]]!r} has no training images; add some, or renumber labels")
    if labels[-1] >= len(names):
        raise CoopNetError(f"{root}: label {labels[-1]} has no name among the {len(names)} in its shards; correct them")
    return _with_warnings(
        dataset, Source(_split(dataset, read_), names), lambda split, number: f"image {number} of the {split} shards"
    )


def _decoded_shards(
    dataset: Dataset, split: str, paths: Sequence[Path], root: Path, allocate: Allocate, processes: int
) -> tuple[Ordered, tuple[str, ...]]:
    """Decode the images of some shards, and return the names of their classes."""
    column = dataset.label_column

    def decode(encoded: bytes, place: str) -> np.ndarray:
        return decoded(encoded, dataset.size, place)

    def read_outlines() -> list[bytes]:
        return [json.dumps([shards.outline(path, column) for path in paths]).encode()]

    (content,) = confined.run(read_outlines, root, memory=MEMORY, seconds=SECONDS)
    outlines = [shards.Outline(rows, tuple(names)) for rows, names in json.loads(content)]
    if len({one.class_names for one in outlines}) > 1:
        raise CoopNetError(f"{root}: the shards of {split} name their classes differently; give shards of one dataset")
    total = sum(one.rows for one in outlines)
    images, labels, report = allocate(total, dataset.size), [], _progress(dataset.name, split, total)

    def reader(path: Path, begin: int, end: int) -> confined.Reader:
        def work() -> list[bytes]:
            found, at = [], begin
            for batch in shards.batches(path, column, decode, rows=max(1, PIECE // images[:1].nbytes)):
                if at + len(batch.labels) > end:
                    break
                images[at : at + len(batch.labels)] = batch.images
                found.append(batch.labels)
                at += len(batch.labels)
            if at != end:
                raise CoopNetError(f"{path} is damaged (its number of rows differs from its metadata); get it again")
            return [np.concatenate(found).tobytes() if found else b""]

        memory = MEMORY + 2 * path.stat().st_size  # Arrow holds a group of rows, compressed and decompressed
        return confined.Reader(work, path, memory=memory, seconds=_seconds(end - begin))

    ends = list(itertools.accumulate(one.rows for one in outlines))
    readers = map(reader, paths, [0, *ends], ends)
    for end, (content,) in zip(ends, confined.in_turn(readers, processes), strict=True):
        labels.append(np.frombuffer(content, dtype=np.int64))
        report(end)
    if not total:
        raise CoopNetError(f"{root} has no images in {split}-*.parquet; give the folder that holds them")
    return _ordered(images, np.concatenate(labels)), outlines[0].class_names


# Both ----------------------------------------------------------------------------------------------------------------


def _ordered(images: np.ndarray, labels: np.ndarray) -> Ordered:
    return Ordered(images, labels, canonical_order(images, labels))


def _split(dataset: Dataset, read_: dict[str, Ordered]) -> dict[str, Ordered]:
    """Hold back some of the images as test images, if the dataset has that setting.

    The choice depends on the content of the images and not on the names of their files: it is a stratified choice from
    all images in canonical order.
    """
    if not dataset.held_back:
        return read_
    images, labels, order = read_["train"]
    size = round(dataset.held_back * len(order))
    chosen = stratified(labels[order], size, derive(dataset.split_seed, "test"))
    rest = np.setdiff1d(np.arange(len(order)), chosen)
    without = np.setdiff1d(labels, labels[order[rest]])
    if not size or without.size:
        reason = "holds back no image" if not size else "leaves a class without training images"
        raise CoopNetError(
            f"datasets.{dataset.name}.test.fraction {dataset.held_back} of {len(order)} images {reason}; choose another"
        )
    return {"train": Ordered(images, labels, order[rest]), "test": Ordered(images, labels, order[chosen])}


def _with_warnings(dataset: Dataset, source: Source, place: Callable[[str, int], str]) -> Source:
    """Warn of test images that are training images too, and of classes without test images. Return the source.

    Args:
        dataset: the dataset.
        source: its images.
        place: where the image of a split and an index comes from.
    """
    train, test = (source.splits[split] for split in SPLITS)
    trained = {sha256(train.images[number]).digest(): number for number in reversed(train.order.tolist())}
    digests = {number: sha256(test.images[number]).digest() for number in test.order.tolist()}
    shared = [number for number, digest in digests.items() if digest in trained]
    if shared:
        log.warning(
            "warning: %s: %d of %d test images are training images, too; remove them, or no accuracy is that on new "
            "images. The first: %s is %s",
            *(dataset.name, len(shared), len(digests), place("test", shared[0])),
            place("train", trained[digests[shared[0]]]),
        )
    lacking = np.setdiff1d(np.arange(len(source.class_names)), test.labels[test.order])
    if lacking.size:
        log.warning(
            "warning: %s: %d of %d classes have no test images, so no accuracy covers them. The first: %s",
            *(dataset.name, lacking.size, len(source.class_names), source.class_names[lacking[0]]),
        )
    return source


def _check_number(dataset: Dataset, classes: int) -> None:
    if not 2 <= classes <= MOST_CLASSES:
        raise CoopNetError(f"{dataset.name} has {classes} classes; it must have 2 to {MOST_CLASSES}")


def _seconds(images: int) -> int:
    return SECONDS + images // IMAGES_PER_SECOND


def _progress(name: str, split: str, images: int) -> Callable[[int], None]:
    """A function that logs from time to time how many images were read."""
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if done < images and time.monotonic() - last >= REPORT_EVERY:
            last = time.monotonic()
            log.info("%s %s: %d of %d images read", name, split, done, images)

    return report


READERS: dict[str, Callable[[Dataset, Path, Allocate, int], Source]] = {
    "folder": _from_folders,
    "parquet": _from_shards,
}
