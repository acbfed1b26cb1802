"""The progress of a run in the run store while it is trained, for `coopnet runs --watch`.

The process that trains a run keeps `<store>/unfinished/<key>/live.json` up to date. It is only for people: no result
depends on it, and the run continues if it cannot be written.
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
"""Seconds between two writes."""
SILENT = 300.0
"""Seconds without a write after which a process on another machine counts as dead."""


class Live(NamedTuple):
    """The progress of a run that is being trained.

    Attributes:
        host: name of the machine.
        pid: id of the process.
        epoch: the current epoch, from 0.
        epochs: number of epochs.
        done: fraction of this epoch's images.
        speed: training images per second, of the last epoch or of this one so far.
        accuracy: top-1 (%) on `split` after the last epoch; None in the first epoch.
        split: `test` or `training`.
        left: estimated seconds to the end; None before the first images.
        time: time of the write, in seconds since 1970.
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
        """Whether the process exists; for another machine, whether its last write is recent."""
        if self.host != platform.node():
            return time.time() - self.time < SILENT
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # the process of another user
            return True
        return True


def read(entries: Store, key: str) -> Live | None:
    """The progress of a run; None if no process trains it."""
    content = files.read_field(entries.unfinished(key) / NAME, "live")
    try:
        found = Live(**content)
        return found if found.alive else None
    except (TypeError, ValueError, OverflowError):
        return None


class LiveWriter:
    """A `Progress` that writes the progress of a run into the store, and passes it on.

    Args:
        progress: receives the same calls.
        folder: folder of the unfinished run.
    """

    def __init__(self, progress: Any, folder: Path):
        self.progress, self.path = progress, folder / NAME
        self.epoch = self.epochs = self.images = self.done = self.trained = 0
        self.accuracy: float | None = None
        self.split, self.speed, self.seconds = "test", 0.0, 0.0
        self.began, self.written = time.monotonic(), -EVERY

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """An epoch begins."""
        self.epoch, self.epochs, self.images, self.done, self.trained = epoch, epochs, images, done, 0
        self.began = time.monotonic()
        self._write()
        self.progress.begin(epoch, epochs, images, done)

    def advance(self, images: int) -> None:
        """A batch is done."""
        self.done, self.trained = self.done + images, self.trained + images
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
        """The process ends: remove the file."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _pace(self) -> tuple[float, float | None]:
        """Images per second, and seconds to the end."""
        passed = time.monotonic() - self.began
        speed = self.speed or (self.trained / passed if self.trained else 0.0)
        epoch = self.seconds or (self.images / speed if speed else 0.0)
        share = self.done / max(self.images, 1)
        return speed, epoch * (self.epochs - self.epoch - share) if epoch else None

    def _write(self) -> None:
        """Replace the file without waiting for the disk; readers see either the old or the new one."""
        self.written = time.monotonic()
        speed, left = self._pace()
        share = self.done / max(self.images, 1)
        state = (self.epoch, self.epochs, share, speed, self.accuracy, self.split, left)
        live = Live(platform.node(), os.getpid(), *state, time.time())
        temporary = self.path.with_name(f".{NAME}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"live": live._asdict()}), encoding="utf-8")
            temporary.replace(self.path)
        except OSError:  # a full disk, for example: the run goes on
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
