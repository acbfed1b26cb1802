"""Parquet shards in the Hugging Face layout: `train-*.parquet`, `test-*.parquet`.

Images are a struct column `img` or `image` whose field `bytes` is an image file; labels are whole numbers. Whoever
reads shards does it in a confined process.
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
from coopnet.data.fit import decoded
from coopnet.files.errors import CoopNetError

IMAGE_COLUMNS = ("img", "image")  # both names are in use for the Hugging Face copies of CIFAR
BATCH = 1024  # rows decoded at a time, at most

LOSSLESS = ("PNG", "BMP", "WEBP")
"""Image files in shards of a known dataset, whose pixels have to be the published ones."""

Decode = Callable[[bytes, str], np.ndarray]
"""Makes pixels of an image file; the text names its place in an error."""


class Outline(NamedTuple):
    """What a shard says of itself: number of rows, and the names of the classes, if it has them."""

    rows: int
    class_names: tuple[str, ...]


def of_split(root: Path, split: str) -> list[Path]:
    """The shards of a split, sorted by name.

    Raises:
        CoopNetError: there is no such folder, or a shard is no file.
    """
    if not root.is_dir():
        raise CoopNetError(f"{root} is not a folder; --root must be the folder of the Parquet shards")
    shards = sorted(root.glob(f"{split}-*.parquet"))
    for shard in shards:
        if not shard.is_file():
            raise CoopNetError(f"{shard} is not a file, or a link to none; put the shard there")
    return shards


def outline(shard: Path, label_column: str) -> Outline:
    """Read what a shard says of itself.

    Raises:
        CoopNetError: it is damaged, or lacks a column.
    """
    with _opened(shard) as file:
        _image_column(shard, file.schema_arrow)
        _check_label_column(shard, file.schema_arrow, label_column)
        return Outline(file.metadata.num_rows, _class_names(file.schema_arrow, label_column))


def batches(shard: Path, label_column: str, decode: Decode, rows: int = BATCH) -> Iterator[Arrays]:
    """Decode a shard in batches of so many rows, or fewer; rows are counted from 0 within the shard.

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
    """Decodes images without loss that are RGB and of a size, and refuses others."""

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


def brought_to(size: int) -> Decode:
    """Decodes any image and brings it to a size (`fit`)."""
    return lambda encoded, place: decoded(encoded, size, place)


@contextlib.contextmanager
def _opened(shard: Path) -> Iterator[pq.ParquetFile]:
    """A shard, and what is wrong with it in words."""
    try:
        with pq.ParquetFile(shard) as file:
            yield file
    except MemoryError:  # Arrow's is an ArrowException, too
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
        raise CoopNetError(f"{shard}: column {name} is {kind}, not whole numbers; use other shards")


def _class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...]:
    """The names that the `datasets` library writes into its shards; none where it did not write them."""
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
        raise CoopNetError(f"{place}: there is no image, at most its name; use shards that hold the images")
    return decode(encoded, place)
