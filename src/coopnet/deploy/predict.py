"""Classification of image files."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopnet.data import fit
from coopnet.deploy.models import Model
from coopnet.files.errors import CoopNetError

CHUNK = 64
"""Image files that are decoded and classified at a time."""


class Prediction(NamedTuple):
    """The prediction for one file.

    Attributes:
        path: of the file.
        classes: names, most likely first; empty if the file could not be read.
        probabilities: of these classes, by the softmax of the logits.
        error: why the file could not be read; otherwise None.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None

    @property
    def best(self) -> str:
        """The most likely class; empty if the file could not be read."""
        return self.classes[0] if self.classes else ""


def found(places: Sequence[str | Path]) -> list[Path]:
    """The given image files, and the image files in the given folders, sorted, without hidden ones.

    Raises:
        CoopNetError: a path does not exist, or a folder has no images.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in fit.SUFFIXES and path.is_file())
            inside = [path for path in inside if not any(s.startswith(".") for s in path.relative_to(place).parts)]
            if not inside:
                raise CoopNetError(f"{place} holds no image: none of its files ends in {', '.join(fit.SUFFIXES)}")
            paths += inside
        elif place.is_file():
            paths.append(place)
        else:
            raise CoopNetError(f"{place} does not exist; give an image or a folder of images")
    return paths


def predict(
    model: Model,
    paths: str | Path | Iterable[str | Path],
    *,
    top: int = 5,
    advance: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:
    """Classify image files, in their order; an unreadable file gives a prediction with an error.

    Args:
        model: from `open_model`.
        paths: of the files; or one path, of a file or of a folder with images.
        top: number of classes per prediction.
        advance: called with the number of files that were processed.

    Raises:
        CoopNetError: `model` is something else, or the folder does not hold an image.
    """
    if not isinstance(model, Model):
        raise CoopNetError(f"predict takes what open_model or export returns, not a {type(model).__name__}")
    if isinstance(paths, str | Path):
        paths = found([paths]) if Path(paths).is_dir() else [paths]
    waiting = map(Path, paths)
    while chunk := list(itertools.islice(waiting, CHUNK)):
        yield from _classified(model, chunk, top)
        advance(len(chunk))


def _classified(model: Model, paths: Sequence[Path], top: int) -> Iterator[Prediction]:
    images: dict[Path, np.ndarray] = {}
    errors: dict[Path, str] = {}
    for path in paths:
        if not path.exists():
            errors[path] = f"{path} does not exist; give an image or a folder of images"
            continue
        try:
            images[path] = fit.decoded(path, model.preprocessing.size, str(path))
        except CoopNetError as error:
            errors[path] = str(error)
    logits = model.logits(np.stack(list(images.values()))) if images else np.zeros((0, 1))
    logits_of = dict(zip(images, logits, strict=True))
    names = model.preprocessing.class_names
    for path in paths:
        if path in errors:
            yield Prediction(path, (), (), errors[path])
            continue
        powers = np.exp(logits_of[path] - logits_of[path].max())
        probabilities = powers / powers.sum()
        order = np.argsort(-probabilities, kind="stable")[:top]
        yield Prediction(path, tuple(names[i] for i in order), tuple(float(probabilities[i]) for i in order))
