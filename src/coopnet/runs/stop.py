"""Reasons for which a run saves its state and stops: SIGINT, SIGTERM, or the time limit."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TIME_IS_UP = 75  # EX_TEMPFAIL of sysexits.h: the same command again continues


class Stop:
    """Called after every training step; returns the reason to stop, or None.

    Args:
        max_minutes: time limit, from now; None for no limit.

    Attributes:
        exit_code: exit code of the reason to stop; 0 as long as there is none.
    """

    def __init__(self, max_minutes: float | None):
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.exit_code = 0

    def __call__(self) -> str | None:
        """The reason to stop, if there is one."""
        if not self.exit_code and self.deadline is not None and time.monotonic() >= self.deadline:
            self.exit_code = TIME_IS_UP
        if not self.exit_code:
            return None
        if self.exit_code == TIME_IS_UP:
            return "stopped at the time limit"
        return f"stopped by {signal.Signals(self.exit_code - 128).name}"

    def seconds_left(self) -> float:
        """Seconds to the time limit; -1 without one, which `FileLock` takes as no limit."""
        return -1 if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the training after the current step instead of killing the process."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code:
            if number == signal.SIGINT:  # a second Ctrl-C ends the process at once; the last saved state remains
                raise KeyboardInterrupt
            return  # a scheduler sends SIGTERM to each process and again through `srun`; only the first one counts
        self.exit_code = 128 + number
