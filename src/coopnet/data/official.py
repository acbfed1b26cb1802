"""The official CIFAR archive: downloaded, checked by size and digest, and read without being extracted.

Its address and MD5 sum are those that torchvision publishes. MD5 does not withstand somebody who may choose both the
archive and its sum, but no way is known to make another archive of a given size for a given sum. What is read out of
it has to match the pinned SHA-256 of the dataset's content after all (`canonical.py`).
"""

import hashlib
import http.client
import io
import pickle
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.data.arrays import Arrays
from coopnet.data.datasets import Dataset
from coopnet.files.errors import CoopNetError

CHUNK = 2**20  # bytes that are received at a time
PATIENCE = 60  # seconds without an answer

BATCH_CLASSES = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}
"""All that the published batches need beside numbers, texts, lists and dictionaries."""


def read(dataset: Dataset, split: str, root: Path) -> Arrays:
    """Read one split out of the archive in `root`, which is downloaded unless it is there.

    Raises:
        CoopNetError: the download failed, or the archive is not the official one.
    """
    from torchvision import datasets

    published = getattr(datasets, dataset.name.upper())
    archive = root / published.filename
    if not archive.exists():
        _download(dataset, published.url, archive, published.tgz_md5)
    batches = published.train_list if split == "train" else published.test_list
    try:
        with archive.open("rb") as file:
            _check(dataset, archive, file, published.tgz_md5)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:gz") as packed:
                parts = [_batch(packed, f"{published.base_folder}/{name}") for name, _ in batches]
    except OSError as error:
        raise CoopNetError(f"cannot read {archive}: {error.strerror or error}") from error
    except Exception as error:  # other bytes can fail anywhere in the unpickler and behind it, with any type
        raise CoopNetError(f"{archive} does not hold the batches of {dataset.name} ({error}); {_REMEDY}") from error
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Arrays(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


_REMEDY = "delete it and run again, or use --source parquet --root FOLDER_OF_SHARDS"


def _download(dataset: Dataset, url: str, archive: Path, md5: str) -> None:
    """Download an archive; only what has passed the check gets its name."""
    request = urllib.request.Request(url, headers={"User-Agent": "coopnet"})
    try:
        response = urllib.request.urlopen(request, timeout=PATIENCE)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(dataset, url, error) from error
    with response, files.replacing(archive) as temporary, temporary.open("w+b") as file:
        received = 0
        while chunk := _receive(dataset, url, response):
            received += len(chunk)
            if received > dataset.archive_size:  # or it would fill the disk
                break
            file.write(chunk)
        if received != dataset.archive_size:
            more = " or more" if received > dataset.archive_size else ""
            raise CoopNetError(
                f"{url} sent {received} bytes{more} instead of {dataset.archive_size}; nothing was kept. "
                "Run again, or use --source parquet --root FOLDER_OF_SHARDS"
            )
        file.flush()
        _check(dataset, archive, file, md5)


def _receive(dataset: Dataset, url: str, response: Any) -> bytes:
    try:
        return bytes(response.read(CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(dataset, url, error) from error


def _unreachable(dataset: Dataset, url: str, error: Exception) -> CoopNetError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CoopNetError(
        f"cannot download {dataset.name} from {url} ({reason}); with no network, use --source parquet "
        "--root FOLDER_OF_SHARDS"
    )


def _check(dataset: Dataset, archive: Path, file: io.BufferedRandom | io.BufferedReader, md5: str) -> None:
    """Refuse an archive of any other size or digest than the official one, before anything interprets its bytes."""
    size = file.seek(0, 2)
    file.seek(0)
    if size != dataset.archive_size:
        raise CoopNetError(f"{archive} has {size} bytes instead of {dataset.archive_size}; {_REMEDY}")
    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise CoopNetError(f"{archive} has the MD5 sum {found} instead of {md5}; {_REMEDY}")


class _Batch(pickle.Unpickler):
    """Reads the published batches, and knows no class but NumPy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a class that a batch names."""
        if module.partition(".")[0] != "numpy" or name not in BATCH_CLASSES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array; it was not run")
        return BATCH_CLASSES[name]


def _batch(packed: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3072] and labels [N] of a batch of the archive."""
    member = packed.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    content = _Batch(member, encoding="latin1").load()
    labels = content["labels"] if "labels" in content else content["fine_labels"]
    return content["data"], np.asarray(labels, dtype=np.int64)
