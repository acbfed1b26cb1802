"""The canonical arrays: the same bytes whatever source a dataset came from.

A prepared folder holds `train.safetensors` and `test.safetensors` (`images` uint8 [N, 32, 32, 3], `labels`
uint8 [N]) and `manifest.json`, which is written last: without it the folder is not finished.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.data.arrays import Arrays
from coopnet.data.datasets import SPLITS, Dataset
from coopnet.files.errors import CoopNetError

MANIFEST = "manifest.json"


def canonical_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Permutation [N] that sorts by label, then by the image's bytes (unsigned, row-major, lexicographic).

    Args:
        images: uint8 [N, …].
        labels: integers [N].
    """
    # Python compares bytes just as the definition asks, and 50,000 images take well under a second.
    keys = [(label, image.tobytes()) for label, image in zip(labels.tolist(), images, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def content_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Hex SHA-256 of a split: labels as one byte each, then the images' bytes, both in canonical order.

    Args:
        images: uint8 [N, …], in any order.
        labels: integers 0..255 [N].
    """
    order = canonical_order(images, labels)
    digest = hashlib.sha256(labels[order].astype(np.uint8).tobytes())
    digest.update(images[order].tobytes())
    return digest.hexdigest()


def prepare(dataset: Dataset, source: str, root: Path | None, out: Path) -> dict[str, Any]:
    """Write the canonical arrays of `dataset` into `out` and return their manifest.

    Nothing is done where `out` is finished, undamaged and came from the same source. Otherwise what it holds
    is left alone until both splits have been read and checked.

    Args:
        dataset: what to prepare.
        source: one of `dataset.sources`.
        root: folder that the source reads from or downloads into (see `sources.read`).
        out: folder to write.

    Raises:
        CoopNetError: the source cannot be read, holds other data, or `out` cannot be written.
    """
    with contextlib.suppress(CoopNetError):
        manifest = verify(out, dataset)
        if manifest.get("source") == source:
            return manifest
    from coopnet.data import sources  # pyarrow and Pillow, which a training run does not need

    splits = {}
    for split in SPLITS:
        splits[split] = _canonical(dataset, split, sources.read(dataset, split, source, root))
    _remove(out / MANIFEST)
    for split, arrays in splits.items():
        files.write_tensors(_file(out, split), arrays._asdict())
    written = {_file(out, split).name: files.sha256(_file(out, split)) for split in SPLITS}
    manifest = {**_identity(dataset), "source": source, "files": written}
    files.write_json(out / MANIFEST, manifest)
    return manifest


def _canonical(dataset: Dataset, split: str, arrays: Arrays) -> Arrays:
    """Sort one split, labels as uint8; refuse it unless count, labels and content are the dataset's."""
    images, labels = arrays
    name, count, last = f"{dataset.name} {split}", dataset.counts[split], dataset.classes - 1
    if len(labels) != count:
        raise CoopNetError(
            f"{name}: {len(labels)} images instead of {count}; is a file missing, or one too many? Give all of them"
        )
    outside = labels[(labels < 0) | (labels > last)]
    if outside.size:
        raise CoopNetError(f"{name}: label {outside[0]} is not in 0..{last}; are these files {dataset.name}?")
    order = canonical_order(images, labels)
    images, labels = images[order], labels[order].astype(np.uint8)
    digest, pinned = content_digest(images, labels), dataset.digest[split]
    if digest != pinned:
        raise CoopNetError(
            f"{name}: content digest {digest} differs from the pinned {pinned}: these are not the published "
            f"images and labels; get {dataset.name} again, or from another source"
        )
    return Arrays(images, labels)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CoopNetError(f"cannot remove {path} ({error.strerror}); check its permissions") from error


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.safetensors"


def _identity(dataset: Dataset) -> dict[str, Any]:
    """What a manifest says about the dataset itself, whatever the source."""
    return {
        "dataset": dataset.name,
        "classes": dataset.classes,
        "counts": dict(dataset.counts),
        "digest": dict(dataset.digest),
    }


def verify(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Return the manifest of a prepared folder, having checked that its files are the ones it records.

    Raises:
        CoopNetError: the folder is unfinished or damaged, or holds something else than `dataset`.
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
    """The manifest, or None where there is none or it cannot be one."""
    try:
        manifest = files.read_json(path, files.LARGEST_RECORD)
    except CoopNetError:
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def load(folder: Path, dataset: Dataset) -> dict[str, Arrays]:
    """Read a prepared folder, checked by `verify`.

    Returns:
        For `train` and `test`: `images` uint8 [N, 32, 32, 3] and `labels` int64 [N], in canonical order.

    Raises:
        CoopNetError: the folder is unfinished or damaged, or holds something else than `dataset`.
    """
    verify(folder, dataset)
    return {split: _load_split(_file(folder, split), dataset, split) for split in SPLITS}


def _load_split(path: Path, dataset: Dataset, split: str) -> Arrays:
    tensors, count = files.read_tensors(path), dataset.counts[split]
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    byte = np.dtype(np.uint8)
    if found != {"images": (byte, (count, 32, 32, 3)), "labels": (byte, (count,))}:
        raise CoopNetError(
            f"{path} does not hold {count} images and labels of {dataset.name}; run `coopnet prepare {dataset.name}`"
        )
    return Arrays(tensors["images"], tensors["labels"].astype(np.int64))
