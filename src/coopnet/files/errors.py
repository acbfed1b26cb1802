"""The exceptions that a user is meant to see."""


class CoopNetError(Exception):
    """An error that the user can fix: the message names its cause and the remedy in one line.

    The command line prints it without a traceback and exits with 1. Every other exception is a bug.
    """


class TrainingFailed(CoopNetError):
    """Training cannot continue with these settings; the run stays unfinished and is recorded as failed.

    Attributes:
        kind: `diverged` or `out_of_memory`.
        epoch: in which it happened, from 0; None outside training.
        step: of that epoch, from 1; None if it was no single step.
    """

    def __init__(self, message: str, kind: str, epoch: int | None = None, step: int | None = None):
        super().__init__(message)
        self.kind, self.epoch, self.step = kind, epoch, step


class RecordingFailed(CoopNetError):
    """A CUDA graph could not be recorded.

    PyTorch's allocator may then stay in its recording state, so this process cannot continue. A new process can, in the
    next mode of `COOPNET_LAUNCH`.

    Attributes:
        mode: the mode that failed.
        following: the mode in which to continue.
    """

    def __init__(self, reason: str, mode: str, following: str):
        super().__init__(
            f"a CUDA graph could not be recorded in the mode {mode} ({reason}); set COOPNET_LAUNCH={following}"
        )
        self.reason, self.mode, self.following = reason, mode, following
