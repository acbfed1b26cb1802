"""Official files: downloaded, and checked by size and digest; and the CIFAR archive, read without being extracted.

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
from typing import Any, NamedTuple

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
    official = Official(dataset.name, published.url, archive, dataset.archive_size, published.tgz_md5)
    official.download()
    batches = published.train_list if split == "train" else published.test_list
    try:
        with archive.open("rb") as file:
            official.check(file)
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


class Official(NamedTuple):
    """A published file, of which its place and content are known.

    Attributes:
        dataset: name of what it belongs to.
        url: where it is published.
        path: where it is here, or will be.
        size: in bytes.
        md5: of its content, in hex.
    """

    dataset: str
    url: str
    path: Path
    size: int
    md5: str

    def download(self) -> None:
        """Download it, unless it is there; only what has passed the check gets its name.

        Raises:
            CoopNetError: that failed, or another file came.
        """
        if self.path.exists():
            return
        request = urllib.request.Request(self.url, headers={"User-Agent": "coopnet"})
        try:
            response = urllib.request.urlopen(request, timeout=PATIENCE)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        with response, files.replacing(self.path) as temporary, temporary.open("w+b") as file:
            received = 0
            while chunk := self._receive(response):
                received += len(chunk)
                if received > self.size:  # or it would fill the disk
                    break
                file.write(chunk)
            if received != self.size:
                more = " or more" if received > self.size else ""
                raise CoopNetError(
                    f"{self.url} sent {received} bytes{more} instead of {self.size}; nothing was kept. "
                    "Run again, or use --source parquet --root FOLDER_OF_SHARDS"
                )
            file.flush()
            self.check(file)

    def check(self, file: io.BufferedRandom | io.BufferedReader) -> None:
        """Refuse a file of any other size or digest than the official one, before anything interprets its bytes."""
        size = file.seek(0, 2)
        file.seek(0)
        if size != self.size:
            raise CoopNetError(f"{self.path} has {size} bytes instead of {self.size}; {_REMEDY}")
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != self.md5:
            raise CoopNetError(f"{self.path} has the MD5 sum {found} instead of {self.md5}; {_REMEDY}")

    def _receive(self, response: Any) -> bytes:
        try:
            return bytes(response.read(CHUNK))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> CoopNetError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return CoopNetError(
            f"cannot download {self.dataset} from {self.url} ({reason}); with no network, use --source parquet "
            "--root FOLDER_OF_SHARDS"
        )


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
