"""Progress of a training: a bar on a terminal, one plain line per epoch in a log."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coopnet.training.trainer import Row

log = logging.getLogger(__name__)


class EpochLines:
    """One line per epoch.

    Args:
        name: of the run.
        begun: called once when training begins, with the epoch and the number of its images that are done.
    """

    def __init__(self, name: str, begun: Callable[[int, int], None] = lambda epoch, done: None):
        self.name, self.begun = name, begun
        self.epochs = 0

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Store the number of epochs."""
        if not self.epochs:
            self.begun(epoch, done)
        self.epochs = epochs

    def advance(self, images: int) -> None:
        """Do nothing: a log has no line per batch."""

    def end(self, row: Row, timing: Row) -> None:
        """Write the line of an epoch."""
        done = int(row["epoch"]) + 1
        left = (self.epochs - done) * (timing["train_seconds"] + timing["evaluation_seconds"])
        split = "test" if "test_top1_ensemble" in row else "training"
        top1 = row.get("test_top1_ensemble", row["train_top1_ensemble"])
        self.say(
            f"{self.name}  epoch {done}/{self.epochs}  loss {row['train_loss']:.3f}  "
            f"{split} top-1 {top1:.2f} %  {timing['images_per_second']:.0f} images/s  "
            f"{timedelta(seconds=round(left))} left"
        )

    def say(self, line: str) -> None:
        """Write a line to the log."""
        log.info(line)


class Bar(EpochLines):
    """Epoch lines, and below them a bar that counts the images of the whole run."""

    def __init__(self, name: str, console: Console, begun: Callable[[int, int], None]):
        super().__init__(name, begun)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images  {task.fields[speed]:.0f}/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task(name, total=None, speed=0.0)
        self.began = time.monotonic()
        self.seen = 0

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Show the epoch."""
        super().begin(epoch, epochs, images, done)
        self.bar.start()
        description = f"{self.name}  epoch {epoch + 1}/{epochs}"
        self.bar.update(self.task, description=description, total=epochs * images, completed=epoch * images + done)

    def advance(self, images: int) -> None:
        """Advance the bar."""
        self.seen += images
        self.bar.update(self.task, advance=images, speed=self.seen / (time.monotonic() - self.began))

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        self.bar.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar from the screen."""
        self.bar.stop()
