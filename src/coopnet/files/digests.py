"""SHA-256 of many files; each is computed once and reused while the file's size, dates and inode stay the same."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from coopnet import files
from coopnet.files.errors import CoopNetError


class Digests:
    """A cache of file digests, by path.

    Args:
        place: file that keeps the cache between processes; None to keep it in memory only.
    """

    def __init__(self, place: Path | None = None):
        self.known: dict[str, list[int | str]] = {} if place is None else _remembered(place)
        self.changed = False

    def __call__(self, path: Path) -> str | None:
        """Hex SHA-256 of a file; None if it cannot be read."""
        try:
            facts = self._facts(path)
        except OSError:
            return None
        entry = self.known.get(str(path))
        if entry and entry[:-1] == facts:
            return str(entry[-1])
        try:
            digest = files.sha256(path)
        except CoopNetError:
            return None
        self.known[str(path)] = [*facts, digest]
        self.changed = True
        return digest

    def date(self, path: Path, when: float | None = None) -> None:
        """Set a file's date, by default to now, and keep its digest in the cache.

        Raises:
            CoopNetError: the file belongs to another user, and cannot be replaced by a copy.
        """
        digest, times = self(path), None if when is None else (when, when)
        try:
            os.utime(path, times)
            if path.is_symlink():  # Snakemake reads the date of the link itself
                os.utime(path, times, follow_symlinks=False)
        except OSError:  # it belongs to another user, perhaps as a link into a shared cache
            files.copy(path, path)
            os.utime(path, times)
        if digest is not None:
            self.known[str(path)] = [*self._facts(path), digest]
            self.changed = True

    @staticmethod
    def _facts(path: Path) -> list[int | str]:
        found = path.stat()
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _remembered(place: Path) -> dict[str, list[int | str]]:
    with contextlib.suppress(CoopNetError):  # only a cache: lost digests are computed again
        content = files.read_json(place)
        if isinstance(content, dict):
            return {path: entry for path, entry in content.items() if isinstance(entry, list)}
    return {}


@contextlib.contextmanager
def remembered(place: Path) -> Iterator[Digests]:
    """A cache of digests that is written to `place` if no error occurs; if two processes do so, one version is kept.

    A user who may only read goes without, and the digests are computed again next time.
    """
    digests = Digests(place)
    yield digests
    nearest = next(folder for folder in place.absolute().parents if folder.exists())
    if digests.changed and os.access(nearest, os.W_OK):
        files.write_json(place, digests.known)
