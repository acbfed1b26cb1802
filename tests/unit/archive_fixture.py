"""A small version of the official CIFAR archive, in the same format, from any images."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from coopnet.data.arrays import Arrays

FOLDER = "toy-batches-py"
NAME = "toy-python.tar.gz"
UNREACHABLE = "http://127.0.0.1:9/toy"


def batch(arrays: Arrays) -> dict[str, Any]:
    """The content of a batch: pixels with channels first, labels as a list, and strings."""
    rows = np.ascontiguousarray(arrays.images.transpose(0, 3, 1, 2)).reshape(len(arrays.labels), 3072)
    return {"batch_label": "of a test", "data": rows, "labels": arrays.labels.tolist()}


def pack(members: Mapping[str, bytes]) -> bytes:
    """An archive of files, with the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def archive(splits: Mapping[str, Arrays]) -> bytes:
    """The archive of a dataset, with training images in two batches."""
    train, half = splits["train"], len(splits["train"].labels) // 2
    batches = {
        "data_batch_1": Arrays(train.images[half:], train.labels[half:]),
        "data_batch_2": Arrays(train.images[:half], train.labels[:half]),
        "test_batch": splits["test"],
    }
    return pack({f"{FOLDER}/{name}": dump(batch(arrays)) for name, arrays in batches.items()})


class _Python2(pickle._Pickler):  # type: ignore[misc,name-defined]  # the pure one, whose methods can be replaced
    """Writes bytes like Python 2, with which the official batches were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _string(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch[bytes] = _string


def dump(content: Any) -> bytes:
    """A pickle of Python 2."""
    buffer = io.BytesIO()
    _Python2(buffer, 2).dump(content)
    return buffer.getvalue()


def published(content: bytes, url: str = UNREACHABLE) -> SimpleNamespace:
    """The facts that torchvision has about an archive."""
    return SimpleNamespace(
        url=url,
        filename=NAME,
        tgz_md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        base_folder=FOLDER,
        train_list=[["data_batch_1", ""], ["data_batch_2", ""]],
        test_list=[["test_batch", ""]],
    )
