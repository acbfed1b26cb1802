"""Bringing an image file to what networks here take: square, RGB, 8 bits a channel."""

import io
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from coopnet.files.errors import CoopNetError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Image files that are decoded: those for which Pillow starts no other program."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""How the names of such files end, in small letters."""

DEEP = ("I", "F")
"""How Pillow's names of modes with more than 8 bits begin; as RGB they would be cut off at white."""


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """An image as uint8 [size, size, 3].

    It is turned upright as its EXIF says; grey, palette and transparent images become RGB as Pillow's
    `convert("RGB")` makes them (transparency is dropped). Then the largest square in its middle is scaled to the size,
    bicubic with antialiasing: the same as torchvision's `Resize(size)` and `CenterCrop(size)`, up to rounding. An
    image that has the size already keeps its pixels. Pillow computes in whole numbers, so one version of it gives the
    same bytes on every machine; of JPEG files the version of its decoder counts, too.

    Raises:
        CoopNetError: the image has more than 8 bits a channel.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(DEEP):
        raise CoopNetError(f"the image has mode {image.mode}, more than 8 bits a channel; convert it to 8 bits")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC, centering=(0.5, 0.5))
    return np.asarray(image)


def decoded(file: bytes | Path, size: int, place: str) -> np.ndarray:
    """Read an image file, or the bytes of one, as uint8 [size, size, 3].

    Whoever reads foreign files does it in a confined process: a file of a few bytes can ask for any memory.

    Args:
        file: its path, or its bytes.
        size: of the result.
        place: what to call it in an error.

    Raises:
        CoopNetError: it cannot be read, is none of `FORMATS`, or has more than 8 bits a channel.
    """
    try:
        with _opened(file) as handle, Image.open(handle, formats=FORMATS) as image:
            return fitted(image, size)
    except (MemoryError, CoopNetError) as error:
        raise error if isinstance(error, MemoryError) else CoopNetError(f"{place}: {error}") from error
    except Exception as error:  # on damaged files Pillow's readers raise SyntaxError, EOFError and others
        kinds = ", ".join(FORMATS)
        raise CoopNetError(
            f"{place}: the image cannot be decoded ({' '.join(str(error).split()) or type(error).__name__}); "
            f"replace it by an image in one of the formats {kinds}, or remove it"
        ) from error


def _opened(file: bytes | Path) -> IO[bytes]:
    return io.BytesIO(file) if isinstance(file, bytes) else file.open("rb")
