"""Images in folders, one folder per class: finding the classes and their image files.

If there are `train/` and `test/`, each holds the class folders; otherwise one tree of classes is split later.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coopnet.data.fit import SUFFIXES
from coopnet.files.errors import CoopNetError

IGNORED = ("thumbs.db", "desktop.ini")
"""Files that file managers leave in folders, besides files whose names begin with a dot."""

LONGEST_NAME = 100  # characters of a class name


class Listed(NamedTuple):
    """The image files of a split and the label of each, in the order of their classes and paths."""

    files: list[Path]
    labels: list[int]


def classes_of(root: Path) -> list[str]:
    """The classes of a folder in the order of their labels: its subfolders, sorted by name.

    Raises:
        CoopNetError: it is not a folder, has fewer than two subfolders, a file beside them, or an unprintable name.
    """
    names = []
    for entry in _entries(root):
        if not entry.is_dir():
            raise CoopNetError(f"{entry} is a file beside the class folders; move it into one of them, or elsewhere")
        if not entry.name.isprintable() or len(entry.name) > LONGEST_NAME:
            raise CoopNetError(
                f"{root} has a class {ascii(entry.name)[:LONGEST_NAME]}; rename the folder: "
                f"at most {LONGEST_NAME} printable characters"
            )
        names.append(entry.name)
    if len(names) < 2:
        raise CoopNetError(
            f"{root} has {len(names) or 'no'} folder{'s' * (len(names) != 1)} with images; "
            "put the images of each class into a folder named after it, at least two classes"
        )
    return names


def listed(root: Path, classes: list[str]) -> Listed:
    """All image files below the folders of `classes` in `root`, at any depth.

    Raises:
        CoopNetError: a class is not among `classes`, a file is not an image, or there are no images.
    """
    unknown = sorted(set(classes_of(root)) - set(classes))
    if unknown:
        raise CoopNetError(
            f"{root / unknown[0]} is a class without training images; add some, or remove the folder (classes of the "
            f"training images: {', '.join(classes[:10])}{', …' * (len(classes) > 10)})"
        )
    found = Listed([], [])
    for label, name in enumerate(classes):
        files = list(_images(root / name)) if (root / name).is_dir() else []
        found.files.extend(files)
        found.labels.extend([label] * len(files))
    if not found.files:
        raise CoopNetError(f"{root} has no images; put some into its class folders")
    return found


def _images(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        try:
            inside = entry.is_dir()
        except OSError as error:  # the folder may be listed, but not entered
            raise CoopNetError(f"cannot read {entry}: {error.strerror}") from error
        if inside:
            if entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve()):
                raise CoopNetError(f"{entry} is a link to a folder around it; remove it")
            yield from _images(entry)
        elif not entry.is_file():  # a pipe would be read for ever
            raise CoopNetError(f"{entry} is no regular file, or a link to a file that is missing; remove it")
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
        else:
            raise CoopNetError(
                f"{entry} does not have the suffix of an image (known: {', '.join(SUFFIXES)}); convert or move it"
            )


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without hidden files."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except NotADirectoryError:
        raise CoopNetError(f"{folder} is not a folder; give the folder that holds the images") from None
    except FileNotFoundError:
        raise CoopNetError(f"{folder} is missing; put the images there, or correct the path") from None
    except OSError as error:
        raise CoopNetError(f"cannot read {folder}: {error.strerror}") from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in IGNORED]
