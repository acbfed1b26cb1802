"""Where images and labels come from. Every source gives the same images; only their order may differ."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from PIL import Image

from coopnet.data import official
from coopnet.data.arrays import Arrays
from coopnet.data.datasets import Dataset
from coopnet.files import confined
from coopnet.files.errors import CoopNetError

IMAGE_COLUMNS = ("img", "image")  # both names are in use for the Hugging Face copies of CIFAR
BATCH = 1024  # rows decoded at a time
IMAGE = 32 * 32 * 3  # bytes

FORMATS = ("PNG", "BMP", "WEBP")
"""Image files that are decoded: lossless ones, without the formats for which Pillow starts other programs."""

MEMORY, COPIES = 2**30, 6
"""What decoding a split may take: bytes for Arrow, and copies of its images (decoded, joined, handed over)."""

SECONDS = 600
"""Processor time that decoding a split may take; that of 50,000 images takes some 10 s."""


def read(dataset: Dataset, split: str, source: str, root: Path | None) -> Arrays:
    """Read one split of a dataset, in whatever order the source has it.

    Args:
        dataset: what to read.
        split: `train` or `test`.
        source: one of `dataset.sources`.
        root: folder of the download (`torchvision`) or of the shards (`parquet`); `digits` needs none.

    Raises:
        CoopNetError: no such source, or what it holds is missing, damaged or of another form.
    """
    if source not in dataset.sources:
        known = ", ".join(dataset.sources)
        raise CoopNetError(f"{dataset.name} has no source {source!r}; --source can be: {known}")
    return SOURCES[source](dataset, split, root)


def read_digits(dataset: Dataset, split: str, root: Path | None) -> Arrays:
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


def read_torchvision(dataset: Dataset, split: str, root: Path | None) -> Arrays:
    """The official CIFAR archive, as torchvision knows it, downloaded into `root` unless it is there.

    Raises:
        CoopNetError: no `root`, the download failed, or the archive is not the official one.
    """
    if root is None:
        raise CoopNetError("the source torchvision needs a folder to download into: give --root FOLDER")
    return official.read(dataset, split, root)


def read_parquet(dataset: Dataset, split: str, root: Path | None) -> Arrays:
    """A folder of shards in the Hugging Face layout: `train-*.parquet`, `test-*.parquet`.

    Images are a struct column `img` or `image` whose field `bytes` is a file of one of `FORMATS`; labels are
    whole numbers in `dataset.label_column`. They are decoded in a process that can take no more memory than the
    dataset needs, and no more time than `SECONDS`.

    Raises:
        CoopNetError: no such folder or shard; a shard is damaged, lacks a column, has an image that is not
            32×32 RGB, or takes too much memory or time.
    """
    if root is None:
        raise CoopNetError("the source parquet needs the folder of the shards: give --root FOLDER")
    if not root.is_dir():
        raise CoopNetError(f"{root} is not a folder; --root must be the folder of the Parquet shards")
    shards = sorted(root.glob(f"{split}-*.parquet"))
    for shard in shards:
        if not shard.is_file():
            raise CoopNetError(f"{shard} is not a file, or a link to none; put the shard there")

    def decoded() -> list[bytes]:
        batches = [batch for shard in shards for batch in _read_shard(shard, dataset.label_column)]
        if not batches:
            raise CoopNetError(f"{root} has no images in {split}-*.parquet; --root must be the folder of the shards")
        arrays = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return [safetensors.numpy.save(dict(zip(Arrays._fields, arrays, strict=True)))]

    memory = MEMORY + COPIES * IMAGE * dataset.counts[split]
    (packed,) = confined.run(decoded, root, memory=memory, seconds=SECONDS)
    return Arrays(**safetensors.numpy.load(packed))


def _read_shard(shard: Path, label_column: str) -> Iterator[Arrays]:
    """Decode a shard batch by batch; rows are counted from 0 within the shard."""
    try:
        with pq.ParquetFile(shard) as file:
            image_column = _image_column(shard, file.schema_arrow)
            _check_label_column(shard, file.schema_arrow, label_column)
            first = 0
            for batch in file.iter_batches(BATCH, columns=[f"{image_column}.bytes", label_column], use_threads=False):
                encoded = batch.column(image_column).field("bytes").to_pylist()
                images = [_decode(image, f"{shard}, row {row}") for row, image in enumerate(encoded, first)]
                yield Arrays(np.stack(images), _labels(shard, batch.column(label_column)))
                first += len(batch)
    except MemoryError:  # Arrow's is one, too
        raise
    except (pa.ArrowException, OSError) as error:
        raise CoopNetError(f"{shard} is damaged ({_one_line(error)}); download it again") from error


def _image_column(shard: Path, schema: pa.Schema) -> str:
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return name
            raise CoopNetError(f"{shard}: column {name} is {kind}, not a struct with bytes; use other shards")
    raise CoopNetError(f"{shard} has no column {' or '.join(IMAGE_COLUMNS)}; is it a shard of this dataset?")


def _check_label_column(shard: Path, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise CoopNetError(f"{shard} has no column {name}; is it a shard of this dataset?")
    kind = schema.field(name).type
    if not pa.types.is_integer(kind):
        raise CoopNetError(f"{shard}: column {name} is {kind}, not whole numbers; use other shards")


def _labels(shard: Path, column: pa.Array) -> np.ndarray:
    if column.null_count:
        raise CoopNetError(f"{shard} has rows without a label; use complete shards")
    return column.to_numpy().astype(np.int64)


def _decode(encoded: bytes | None, place: str) -> np.ndarray:
    """Decode an image file into uint8 [32, 32, 3]; `place` names it in an error."""
    if encoded is None:
        raise CoopNetError(f"{place}: there is no image, at most its name; use shards that hold the images")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if (image.mode, image.size) == ("RGB", (32, 32)):
            return np.asarray(image)
    except MemoryError:
        raise
    except Exception as error:  # on damaged files Pillow's readers raise SyntaxError, EOFError and others
        raise CoopNetError(f"{place}: the image cannot be decoded; download the shard again") from error
    form = f"{image.width}×{image.height} {image.mode}"
    raise CoopNetError(f"{place}: the image is {form}, not 32×32 RGB; use the original shards")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


SOURCES: dict[str, Callable[[Dataset, str, Path | None], Arrays]] = {
    "digits": read_digits,
    "torchvision": read_torchvision,
    "parquet": read_parquet,
}
