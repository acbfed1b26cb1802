"""What a model says about image files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopnet.data import fit
from coopnet.deploy.models import Model
from coopnet.files.errors import CoopNetError

CHUNK = 64
"""Image files that are decoded and classified together."""


class Prediction(NamedTuple):
    """What a model says about one file.

    Attributes:
        path: of the file.
        classes: names, the likeliest first; empty where the file could not be read.
        probabilities: of these classes, by the softmax of the logits.
        error: why the file could not be read; None otherwise.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None

    @property
    def best(self) -> str:
        """The likeliest class; empty where the file could not be read."""
        return self.classes[0] if self.classes else ""


def found(places: Sequence[str | Path]) -> list[Path]:
    """The image files that are named, and those in the folders that are named, sorted.

    Raises:
        CoopNetError: a place is not there, or there is no image in any of them.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in fit.SUFFIXES and path.is_file())
            if not inside:
                raise CoopNetError(f"{place} holds no image: none of its files ends in {', '.join(fit.SUFFIXES)}")
            paths += inside
        elif place.is_file():
            paths.append(place)
        else:
            raise CoopNetError(f"{place} is not there; name an image or a folder of images")
    return paths


def predict(
    model: Model, paths: Iterable[str | Path], *, top: int = 5, advance: Callable[[int], None] = lambda done: None
) -> Iterator[Prediction]:
    """Classify image files, in their order; one that cannot be read is told of in its place.

    Args:
        model: as `open_model` gives it.
        paths: of the files.
        top: how many classes to name.
        advance: is told of every file that is done.
    """
    chunk: list[Path] = []
    for path in map(Path, paths):
        chunk.append(path)
        if len(chunk) == CHUNK:
            yield from _classified(model, chunk, top)
            advance(len(chunk))
            chunk = []
    if chunk:
        yield from _classified(model, chunk, top)
        advance(len(chunk))


def _classified(model: Model, paths: Sequence[Path], top: int) -> Iterator[Prediction]:
    images: dict[Path, np.ndarray] = {}
    errors: dict[Path, str] = {}
    for path in paths:
        try:
            images[path] = fit.decoded(path, model.preprocessing.size, str(path))
        except CoopNetError as error:
            errors[path] = str(error)
    logits = model.logits(np.stack(list(images.values()))) if images else np.zeros((0, 1))
    said = dict(zip(images, logits, strict=True))
    names = model.preprocessing.class_names
    for path in paths:
        if path in errors:
            yield Prediction(path, (), (), errors[path])
            continue
        powers = np.exp(said[path] - said[path].max())
        shares = powers / powers.sum()
        order = np.argsort(-shares, kind="stable")[:top]
        yield Prediction(path, tuple(names[i] for i in order), tuple(float(shares[i]) for i in order))
