"""The canonical arrays: the same bytes for every source of a dataset.

A prepared folder holds `train.safetensors` and `test.safetensors` (`images` uint8 [N, H, W, 3], `labels` uint8 [N], or
uint16 above 256 classes) and `manifest.json`. The manifest is written last; without it the folder is unfinished.

Images need not fit into memory: they are written in pieces and memory-mapped when they are read.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.data.arrays import Allocate, Arrays, Ordered, Source
from coopnet.data.datasets import SPLITS, Dataset
from coopnet.data.order import MANY_CLASSES, channel_statistics, content_digest, packed, pieces
from coopnet.files.errors import CoopNetError

MANIFEST = "manifest.json"


def prepare(dataset: Dataset, source: str, root: Path | None, out: Path, processes: int = 1) -> dict[str, Any]:
    """Write the canonical arrays of `dataset` into `out` and return their manifest.

    Nothing is done if `out` is finished, undamaged and from the same source. A user's own data has to be read again
    to know that. Otherwise the content of `out` is kept until both splits have been read and checked.

    Args:
        dataset: the dataset to prepare.
        source: one of `dataset.sources`.
        root: folder that the source reads from or downloads into (see `sources.read_all`).
        out: folder to write.
        processes: number of them that decode a user's own images at the same time.

    Raises:
        CoopNetError: the source cannot be read, holds other data, or `out` cannot be written.
    """
    there = None
    with contextlib.suppress(CoopNetError):
        there = verify(out, dataset)
        if there.get("source") == source and not dataset.own:
            return there
    from coopnet.data import sources  # imports pyarrow and Pillow, which a training run does not need

    with _allocation(dataset, out, sources.in_memory) as allocate:
        found = sources.read_all(dataset, source, root, allocate, processes)
        facts = _facts(dataset, found)
        if there is not None and facts.items() <= there.items() and there.get("source") == source:
            return there
        files.remove(out / MANIFEST)
        for split, arrays in found.splits.items():
            _write(_file(out, split), arrays, facts["classes"])
    written = {_file(out, split).name: files.sha256(_file(out, split)) for split in SPLITS}
    manifest = {**facts, "source": source, "files": written}
    files.write_json(out / MANIFEST, manifest)
    return manifest


@contextlib.contextmanager
def _allocation(dataset: Dataset, out: Path, in_memory: Allocate) -> Iterator[Allocate]:
    """Memory for images while they are sorted: a file for a user's own data, which may be larger than memory."""
    if not dataset.own:
        yield in_memory
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch_beside(out) as scratch:
            yield lambda count, size: _allocate_in_file(scratch, count, size)
    except OSError as error:
        raise CoopNetError(f"cannot write {out}: {files.reason(error)}") from error


def _allocate_in_file(scratch: Path, count: int, size: int) -> np.ndarray:
    """Allocate images (`arrays.Allocate`) in a file that is deleted with the folder `scratch`."""
    shape = (count, size, size, 3)
    if not count:
        return np.zeros(shape, np.uint8)
    path = scratch / f"images{len(list(scratch.iterdir()))}"
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a mapped file cannot report a full disk
        return np.memmap(path, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise CoopNetError(
            f"cannot write the {count} images of {size}×{size} pixels to {scratch.parent}: {files.reason(error)}"
        ) from error


def _facts(dataset: Dataset, found: Source) -> dict[str, Any]:
    """The manifest's entries about images and labels, checked against the known facts about the dataset."""
    classes = len(found.class_names) if dataset.measured else dataset.classes
    digests = {split: _digest(dataset, split, arrays, classes) for split, arrays in found.splits.items()}
    counts = {split: len(arrays.order) for split, arrays in found.splits.items()}
    facts: dict[str, Any] = {"dataset": dataset.name, "classes": classes, "counts": counts, "digest": digests}
    if dataset.measured:
        mean, std = channel_statistics(found.splits["train"].images, found.splits["train"].order)
        if not all(std):
            raise CoopNetError(f"{dataset.name}: all training images have one and the same colour; use other images")
        facts |= {"mean": mean, "std": std, "size": dataset.size, "class_names": list(found.class_names)}
    different = [field for field, known in _identity(dataset).items() if facts.get(field) != known]
    if different:
        raise CoopNetError(
            f"{dataset.name}: {different[0]} is {facts[different[0]]}, not the pinned "
            f"{_identity(dataset)[different[0]]}; "
            f"if the images were changed on purpose, {where_to_pin(dataset)}: {pin(facts)}"
        )
    return facts


def where_to_pin(dataset: Dataset) -> str:
    """The instruction for adding the line that pins a prepared dataset."""
    return f"add this line to datasets.{dataset.name} of params.yaml"


def pin(manifest: Mapping[str, Any]) -> str:
    """The line of `params.yaml` that pins a prepared dataset."""
    counts = ", ".join(f"{split}: {manifest['counts'][split]}" for split in SPLITS)
    digests = ", ".join(f'{split}: "{manifest["digest"][split]}"' for split in SPLITS)
    mean, std = (", ".join(f"{value:.7f}" for value in manifest[name]) for name in ("mean", "std"))
    return (
        f"pinned: {{classes: {manifest['classes']}, counts: {{{counts}}}, digest: {{{digests}}}, "
        f"mean: [{mean}], std: [{std}]}}"
    )


def _digest(dataset: Dataset, split: str, arrays: Ordered, classes: int) -> str:
    """The content digest of a split, after a check of its count, labels and content."""
    labels = arrays.labels[arrays.order]
    name, count = f"{dataset.name} {split}", dataset.counts.get(split, len(labels))
    if not dataset.own and len(labels) != count:
        raise CoopNetError(
            f"{name}: {len(labels)} images instead of {count}; give all files of the split, and no others"
        )
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise CoopNetError(f"{name}: label {outside[0]} is not in 0..{classes - 1}; are these files {dataset.name}?")
    digest, pinned = content_digest(arrays.images, arrays.labels, classes, arrays.order), dataset.digest.get(split)
    if not dataset.measured and digest != pinned:
        raise CoopNetError(
            f"{name}: content digest {digest} differs from the pinned {pinned}: these are not the published "
            f"images and labels; get {dataset.name} again, or from another source"
        )
    return digest


def _write(path: Path, arrays: Ordered, classes: int) -> None:
    """Write a split in canonical order."""
    images, labels, order = arrays
    content = packed(labels[order], classes)
    parts = {
        "images": files.Pieces("U8", [len(order), *images.shape[1:]], pieces(images, order)),
        "labels": files.Pieces("U8" if classes <= MANY_CLASSES else "U16", [len(order)], [content]),
    }
    files.write_pieces(path, parts)


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.safetensors"


def _identity(dataset: Dataset) -> dict[str, Any]:
    """The manifest's entries that identify the dataset, for any source."""
    if not dataset.measured:
        return {
            "dataset": dataset.name,
            "classes": dataset.classes,
            "counts": dict(dataset.counts),
            "digest": dict(dataset.digest),
        }
    identity: dict[str, Any] = {"dataset": dataset.name, "size": dataset.size}
    if dataset.digest:
        identity |= {"classes": dataset.classes, "counts": dict(dataset.counts), "digest": dict(dataset.digest)}
        identity |= {"mean": list(dataset.mean), "std": list(dataset.std)}
    return identity


def verify(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Check that the files of a prepared folder match its manifest, and return the manifest.

    Raises:
        CoopNetError: the folder is unfinished or damaged, or holds another dataset.
    """
    remedy = f"run `coopnet prepare {dataset.name}`"
    path = folder / MANIFEST
    manifest = _read_manifest(path)
    if manifest is None:
        raise CoopNetError(f"{dataset.name} is not prepared ({path} is missing or damaged); {remedy}")
    for field, expected in _identity(dataset).items():
        if manifest.get(field) != expected:
            raise CoopNetError(f"{path}: {field} is {manifest.get(field)}, not {expected}; {remedy}")
    if manifest.get("source") not in dataset.sources:
        raise CoopNetError(f"{path}: source is {manifest.get('source')}, which {dataset.name} does not have; {remedy}")
    for split in SPLITS:
        file = _file(folder, split)
        if not file.is_file():
            raise CoopNetError(f"{file} is missing; {remedy}")
        if files.sha256(file) != manifest["files"].get(file.name):
            raise CoopNetError(f"{file} is damaged (its SHA-256 is not the one in {path}); {remedy}")
    return manifest


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest; None if it is missing or cannot be one."""
    try:
        manifest = files.read_json(path, files.LARGEST_RECORD)
    except CoopNetError:
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def load(folder: Path, dataset: Dataset) -> dict[str, Arrays]:
    """Check a prepared folder with `verify`, and map it into memory.

    Returns:
        For `train` and `test`: `images` uint8 [N, H, W, 3], read-only and mapped from their file, and `labels`
        int64 [N], in canonical order.

    Raises:
        CoopNetError: the folder is unfinished or damaged, or holds another dataset.
    """
    manifest = verify(folder, dataset)
    return {split: _load_split(_file(folder, split), dataset, manifest, split) for split in SPLITS}


def class_names(folder: Path, dataset: Dataset) -> list[str]:
    """The class names of a prepared folder, in the order of their labels."""
    manifest = _read_manifest(folder / MANIFEST) or {}
    return list(dataset.class_names or manifest.get("class_names") or ())


def _load_split(path: Path, dataset: Dataset, manifest: Mapping[str, Any], split: str) -> Arrays:
    mapped, count = files.map_tensors(path), manifest["counts"][split]
    found = {name: (array.dtype, array.shape) for name, array in mapped.items()}
    label = packed(np.zeros(0, np.int64), manifest["classes"]).dtype
    side = dataset.size
    if found != {"images": (np.dtype(np.uint8), (count, side, side, 3)), "labels": (label, (count,))}:
        raise CoopNetError(
            f"{path} does not hold {count} images and labels of {dataset.name}; run `coopnet prepare {dataset.name}`"
        )
    return Arrays(mapped["images"], mapped["labels"].astype(np.int64))
