"""Converting an image file to the input of the networks: square, RGB, 8 bits per channel."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from coopnet.files.errors import CoopNetError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Image formats that are decoded: those for which Pillow starts no other program."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""File suffixes of these formats, in lower case."""

DEEP = ("I", "F")
"""Prefixes of Pillow's modes with more than 8 bits; a conversion to RGB would clip them at white."""


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """Convert an image to uint8 [size, size, 3].

    It is turned upright by its EXIF orientation; grey, palette and transparent images become RGB by Pillow's
    `convert("RGB")` (transparency is dropped). Then the largest centred square is scaled to the size, bicubic with
    antialiasing, which for a square image is torchvision's `Resize(size)`. (Of another one torchvision scales the whole
    and crops whole pixels.) An image that already has the size keeps its pixels. Pillow computes in integers, so one
    version of it gives the same bytes on every machine; for JPEG files the version of its decoder matters too.

    Raises:
        CoopNetError: the image has more than 8 bits per channel.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(DEEP):
        raise CoopNetError(f"the image has mode {image.mode}, more than 8 bits per channel; convert it to 8 bits")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC, centering=(0.5, 0.5))
    return np.asarray(image)


def decoded(file: bytes | Path, size: int, place: str) -> np.ndarray:
    """Read an image file, or the bytes of one, as uint8 [size, size, 3].

    Untrusted files must be read in a confined process, since a file of a few bytes can need any amount of memory.

    Args:
        file: its path, or its bytes.
        size: of the result, in pixels a side.
        place: name of the image in errors.

    Raises:
        CoopNetError: it cannot be read, has none of `FORMATS`, or has more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            return fitted(image, size)
    except MemoryError:
        raise
    except CoopNetError as error:
        raise CoopNetError(f"{place}: {error}") from error
    except Exception as error:  # on damaged files Pillow's readers raise SyntaxError, EOFError and others
        kinds = ", ".join(FORMATS)
        raise CoopNetError(
            f"{place}: the image cannot be decoded ({' '.join(str(error).split()) or type(error).__name__}); "
            f"replace it by an image in one of the formats {kinds}, or remove it"
        ) from error
