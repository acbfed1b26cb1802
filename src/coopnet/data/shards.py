"""Parquet shards in the Hugging Face layout: `train-*.parquet`, `test-*.parquet`.

Images are a struct column `img` or `image` whose field `bytes` is an image file; labels are integers. Shards must be
read in a confined process.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from coopnet.data.arrays import Arrays
from coopnet.files.errors import CoopNetError

IMAGE_COLUMNS = ("img", "image")  # Hugging Face copies of CIFAR use either name
BATCH = 1024  # rows decoded at a time, at most

LOSSLESS = ("PNG", "BMP", "WEBP")
"""Image formats in shards of a known dataset, whose pixels must be the published ones."""

Decode = Callable[[bytes, str], np.ndarray]
"""Decodes an image file to pixels; the string is its name in errors."""


class Outline(NamedTuple):
    """The metadata of a shard: number of rows, and the class names if it has them."""

    rows: int
    class_names: tuple[str, ...]


def of_split(root: Path, split: str) -> list[Path]:
    """The shards of a split, sorted by name.

    Raises:
        CoopNetError: there is no such folder, or a shard is not a file.
    """
    if not root.is_dir():
        raise CoopNetError(f"{root} is not a folder; --root must be the folder of the Parquet shards")
    shards = sorted(root.glob(f"{split}-*.parquet"))
    for shard in shards:
        if not shard.is_file():
            raise CoopNetError(f"{shard} is not a file, or is a broken link; put the shard there")
    return shards


def outline(shard: Path, label_column: str) -> Outline:
    """Read the metadata of a shard.

    Raises:
        CoopNetError: it is damaged, or lacks a column.
    """
    with _opened(shard) as file:
        _image_column(shard, file.schema_arrow)
        _check_label_column(shard, file.schema_arrow, label_column)
        return Outline(file.metadata.num_rows, _class_names(file.schema_arrow, label_column))


def batches(shard: Path, label_column: str, decode: Decode, rows: int = BATCH) -> Iterator[Arrays]:
    """Decode a shard in batches of at most this many rows; rows are counted from 0 within the shard.

    Raises:
        CoopNetError: it is damaged, lacks a column, or an image cannot be decoded.
    """
    with _opened(shard) as file:
        image_column = _image_column(shard, file.schema_arrow)
        _check_label_column(shard, file.schema_arrow, label_column)
        first = 0
        for batch in file.iter_batches(
            min(rows, BATCH), columns=[f"{image_column}.bytes", label_column], use_threads=False
        ):
            encoded = batch.column(image_column).field("bytes").to_pylist()
            images = [_decoded(image, decode, f"{shard}, row {row}") for row, image in enumerate(encoded, first)]
            yield Arrays(np.stack(images), _labels(shard, batch.column(label_column)))
            first += len(batch)


def exactly(size: int) -> Decode:
    """A decoder for lossless RGB images of one size, which refuses all others."""

    def decode(encoded: bytes, place: str) -> np.ndarray:
        try:
            image = Image.open(io.BytesIO(encoded), formats=LOSSLESS)
            if (image.mode, image.size) == ("RGB", (size, size)):
                return np.asarray(image)
        except MemoryError:
            raise
        except Exception as error:  # on damaged files Pillow's readers raise SyntaxError, EOFError and others
            raise CoopNetError(f"{place}: the image cannot be decoded; download the shard again") from error
        form = f"{image.width}×{image.height} {image.mode}"
        raise CoopNetError(f"{place}: the image is {form}, not {size}×{size} RGB; use the original shards")

    return decode


@contextlib.contextmanager
def _opened(shard: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard, and translate errors of its reader."""
    try:
        with pq.ParquetFile(shard) as file:
            yield file
    except MemoryError:  # Arrow's MemoryError is also an ArrowException
        raise
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CoopNetError(f"{shard} is damaged ({reason}); download it again") from error


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
        raise CoopNetError(f"{shard}: column {name} is {kind}, not integers; use other shards")


def _class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...]:
    """The class names that the `datasets` library writes into its shards; an empty tuple if there are none."""
    try:
        content = json.loads((schema.metadata or {})[b"huggingface"])
        names = content["info"]["features"][label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _labels(shard: Path, column: pa.Array) -> np.ndarray:
    if column.null_count:
        raise CoopNetError(f"{shard} has rows without a label; use complete shards")
    return column.to_numpy().astype(np.int64)


def _decoded(encoded: bytes | None, decode: Decode, place: str) -> np.ndarray:
    if encoded is None:
        raise CoopNetError(
            f"{place}: the row has no image data, at most a file name; use shards that contain the images"
        )
    return decode(encoded, place)
