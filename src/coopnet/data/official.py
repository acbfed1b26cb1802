"""Official files, downloaded and checked by size and digest; and the CIFAR archive, read without extraction.

Address and MD5 sum are those that torchvision publishes. MD5 does not protect against an attacker who can choose both
the archive and its sum, but no way is known to make another archive with a given size and sum. In addition, the content
must match the pinned SHA-256 of the dataset's content (`canonical.py`).
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
"""All that the published batches need besides numbers, strings, lists and dictionaries."""


def read(dataset: Dataset, split: str, root: Path) -> Arrays:
    """Read one split from the archive in `root`, which is downloaded if it is missing.

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
    except CoopNetError:  # another size or sum
        raise
    except Exception as error:  # damaged bytes can raise any exception in the unpickler
        raise CoopNetError(f"{archive} does not hold the batches of {dataset.name} ({error}); {_REMEDY}") from error
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Arrays(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


_REMEDY = "delete it and run again, or use --source parquet --root FOLDER_OF_SHARDS"


class Official(NamedTuple):
    """A published file with known location and content.

    Attributes:
        dataset: name of its dataset.
        url: address of the published file.
        path: local path of the file.
        size: in bytes.
        md5: of its content, in hex.
    """

    dataset: str
    url: str
    path: Path
    size: int
    md5: str

    def download(self) -> None:
        """Download it if it is missing; it gets its name only after the check.

        Raises:
            CoopNetError: the download failed, or returned another file.
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
                if received > self.size:  # otherwise it could fill the disk
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
        """Refuse a file whose size or digest differs from the official one, before its bytes are interpreted."""
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
    """Reads the published batches; it accepts no class except NumPy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a class that a batch names."""
        if module.partition(".")[0] != "numpy" or name not in BATCH_CLASSES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array; it was not run")
        return BATCH_CLASSES[name]


def _batch(packed: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3072] and labels [N] of a batch of the archive."""
    member = packed.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is not a file")
    content = _Batch(member, encoding="latin1").load()
    labels = content["labels"] if "labels" in content else content["fine_labels"]
    return content["data"], np.asarray(labels, dtype=np.int64)
