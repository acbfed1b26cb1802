"""SHA-256 of many files, each computed once for as long as its size, dates and inode stay."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from coopnet import files
from coopnet.files.errors import CoopNetError


class Digests:
    """Digests of files, remembered by path.

    Args:
        place: where they are remembered from one process to the next; None for nowhere.
    """

    def __init__(self, place: Path | None = None):
        self.place = place
        self.known: dict[str, list[int | str]] = self._remembered()
        self.changed = False

    def __call__(self, path: Path) -> str | None:
        """Hex SHA-256 of a file; None where there is no file that can be read."""
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

    def date(self, path: Path) -> None:
        """Give a file the date of now, without forgetting its digest."""
        digest = self(path)
        os.utime(path)
        if digest is not None:
            self.known[str(path)] = [*self._facts(path), digest]
            self.changed = True

    def save(self) -> None:
        """Remember what was computed; of two processes that do so at once, one is remembered."""
        if self.place is not None and self.changed:
            files.write_json(self.place, self.known)

    def _remembered(self) -> dict[str, list[int | str]]:
        if self.place is None:
            return {}
        with contextlib.suppress(CoopNetError):  # only memory: what is lost is computed again
            content = files.read_json(self.place)
            if isinstance(content, dict):
                return {path: entry for path, entry in content.items() if isinstance(entry, list)}
        return {}

    @staticmethod
    def _facts(path: Path) -> list[int | str]:
        found = path.stat()
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


@contextlib.contextmanager
def remembered(place: Path) -> Iterator[Digests]:
    """Digests that are remembered at `place` when all went well."""
    digests = Digests(place)
    yield digests
    digests.save()
