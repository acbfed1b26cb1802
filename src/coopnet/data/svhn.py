"""Street View House Numbers, cropped digits (Netzer et al., NIPS workshop 2011): the official MATLAB files.

Their addresses and MD5 sums are those that torchvision publishes, their sizes those that the server reports. They are
downloaded without encryption, because the server offers none. So size and MD5 sum are checked before the content is
read, and the content must have the digest in `params.yaml` once it is pinned there.
"""

from pathlib import Path

import numpy as np

from coopnet.data.arrays import Arrays
from coopnet.data.official import Official
from coopnet.files.errors import CoopNetError

SIZES = {"train": 182_040_794, "test": 64_275_384}
"""Bytes of `train_32x32.mat` and `test_32x32.mat`."""

LABELS = np.arange(1, 11)


def official_file(split: str, root: Path) -> Path:
    """The file of a split in `root`, checked, and downloaded if it is missing.

    Raises:
        CoopNetError: the download failed, or the file is not the official one.
    """
    from torchvision.datasets import SVHN

    url, name, md5 = SVHN.split_list[split]
    file = Official("svhn", url, root / name, SIZES[split], md5)
    file.download()
    try:
        with file.path.open("rb") as opened:
            file.check(opened)
    except OSError as error:
        raise CoopNetError(f"cannot read {file.path}: {error.strerror or error}") from error
    return file.path


def unpacked(path: Path) -> Arrays:
    """Images and labels of a file, read by SciPy's `loadmat`; the files' label 10 is the digit 0.

    Call this in a confined process: the file is compressed and may need any amount of memory.

    Raises:
        CoopNetError: it is not such a file.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        images, labels = content["X"], content["y"]
    except MemoryError:
        raise
    except Exception as error:  # its reader raises ValueError, TypeError, zlib.error, NotImplementedError and others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CoopNetError(
            f"{path} is not a MATLAB file with X and y ({reason}); get the official file again"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise CoopNetError(f"{path}: X is {images.dtype} {images.shape}, not uint8 (32, 32, 3, N); get it again")
    labels = labels.ravel()
    if (
        len(labels) != images.shape[3]
        or not np.issubdtype(labels.dtype, np.number)
        or not np.isin(labels, LABELS).all()
    ):
        raise CoopNetError(f"{path}: y does not hold a label from 1 to 10 for each image; get the official file again")
    return Arrays(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype(np.int64) % 10)
