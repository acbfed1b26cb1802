"""The one exception that a user is meant to see."""


class CoopNetError(Exception):
    """Something the user can mend: the message names the thing and the remedy, in one line.

    The command line prints it without a traceback and exits with 1. Every other exception is a bug.
    """


class TrainingFailed(CoopNetError):
    """Training cannot go on as it is set up; the run is left unfinished, and said to have failed.

    Attributes:
        kind: `diverged` or `out_of_memory`.
        epoch: in which it happened, from 0; None outside of training.
        step: of that epoch, from 1; None where it was no single step.
    """

    def __init__(self, message: str, kind: str, epoch: int | None = None, step: int | None = None):
        super().__init__(message)
        self.kind, self.epoch, self.step = kind, epoch, step
