"""What a run that is being trained says of itself in the run store, for `coopnet runs --watch`.

The process that trains a run keeps `<store>/unfinished/<key>/live.json` up to date. It is for people alone: no result
depends on it, and where it cannot be written the run goes on without.
"""

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

from coopnet import files
from coopnet.runs.store import Store

NAME = "live.json"
EVERY = 2.0
"""Seconds between two writings."""
SILENT = 300.0
"""Seconds after which a process on another machine, of which nothing was heard, is taken for gone."""


class Live(NamedTuple):
    """A run that is being trained.

    Attributes:
        host: the machine.
        pid: the process.
        epoch: from 0.
        epochs: how many there are.
        done: the share of this epoch's images.
        speed: training images a second, of the last epoch or of this one so far.
        accuracy: top-1 (%) on `split` after the last epoch; None before.
        split: `test` or `training`.
        left: seconds to the end, at this pace; None before the first images.
        time: when this was written, seconds since 1970.
    """

    host: str
    pid: int
    epoch: int
    epochs: int
    done: float
    speed: float
    accuracy: float | None
    split: str
    left: float | None
    time: float

    @property
    def alive(self) -> bool:
        """Whether the process is there; of another machine's only how long it has been silent is known."""
        if self.host != platform.node():
            return time.time() - self.time < SILENT
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True


def read(entries: Store, key: str) -> Live | None:
    """What the process says that trains a run; None where nobody does."""
    content = _content(entries.unfinished(key) / NAME)
    try:
        found = Live(**content)
        return found if found.alive else None
    except (TypeError, ValueError, OverflowError):
        return None


def _content(path: Path) -> dict[str, Any]:
    fields = files.read_field(path, "live")
    return fields if isinstance(fields, dict) else {}


class Pulse:
    """Tells the store how a run goes, beside whoever else is told.

    Args:
        progress: is told everything as well.
        folder: of the unfinished run.
    """

    def __init__(self, progress: Any, folder: Path):
        self.progress, self.path = progress, folder / NAME
        self.epoch = self.epochs = self.images = self.done = self.seen = 0
        self.accuracy: float | None = None
        self.split, self.speed, self.seconds = "test", 0.0, 0.0
        self.began, self.written = time.monotonic(), -EVERY

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """An epoch begins."""
        self.epoch, self.epochs, self.images, self.done, self.seen = epoch, epochs, images, done, 0
        self.began = time.monotonic()
        self._write()
        self.progress.begin(epoch, epochs, images, done)

    def advance(self, images: int) -> None:
        """A batch is done."""
        self.done, self.seen = self.done + images, self.seen + images
        if time.monotonic() - self.written >= EVERY:
            self._write()
        self.progress.advance(images)

    def end(self, row: dict[str, float], timing: dict[str, float]) -> None:
        """An epoch is done."""
        self.split = "test" if "test_top1_ensemble" in row else "training"
        self.accuracy = row.get("test_top1_ensemble", row.get("train_top1_ensemble"))
        self.speed = timing["images_per_second"]
        self.seconds = timing["train_seconds"] + timing["evaluation_seconds"]
        self.progress.end(row, timing)

    def close(self) -> None:
        """The process ends."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _pace(self) -> tuple[float, float | None]:
        """Images a second, and seconds to the end."""
        passed = time.monotonic() - self.began
        speed = self.speed or (self.seen / passed if self.seen else 0.0)
        epoch = self.seconds or (self.images / speed if speed else 0.0)
        share = self.done / max(self.images, 1)
        return speed, epoch * (self.epochs - self.epoch - share) if epoch else None

    def _write(self) -> None:
        """Replace the file without waiting for the disk; a reader sees the old one or the new one."""
        self.written = time.monotonic()
        speed, left = self._pace()
        share = self.done / max(self.images, 1)
        said = (self.epoch, self.epochs, share, speed, self.accuracy, self.split, left)
        live = Live(platform.node(), os.getpid(), *said, time.time())
        temporary = self.path.with_name(f".{NAME}")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"live": live._asdict()}), encoding="utf-8")
            temporary.replace(self.path)
