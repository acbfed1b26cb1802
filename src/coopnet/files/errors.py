"""The exceptions that a user is meant to see, and how exhausted memory is recognised."""


class CoopNetError(Exception):
    """An error that the user can fix: the message names its cause and the remedy in one line.

    The command line prints it without a traceback and exits with 1. Every other exception is a bug.
    """


class Damaged(CoopNetError):
    """A file is missing, or is not as it was written.

    Attributes:
        fact: the message without its remedy. The remedy is right for files that a command makes again; whoever reads
            other files states another one.
    """

    def __init__(self, fact: str, remedy: str = "delete it and run again"):
        super().__init__(f"{fact}; {remedy}" if remedy else fact)
        self.fact = fact


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


PHRASES = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "_STATUS_ALLOC_FAILED")
"""Phrases of PyTorch and its libraries for exhausted memory; they have no common type for it."""

TYPES = ("MemoryError", "OutOfMemoryError")
"""Names of the error types of Python, NumPy and PyTorch. PyTorch's type is not imported, which would take seconds."""


def out_of_memory(error: BaseException) -> str | None:
    """A short reason if an error means that the device or the machine has no memory left, otherwise None.

    The errors that caused it count too: a CUDA graph that runs out of memory while it is recorded raises an error of
    its own.
    """
    reason, cause = _reason(error), error.__cause__ or error.__context__
    return out_of_memory(cause) if reason is None and cause is not None else reason


def _reason(error: BaseException) -> str | None:
    sentences = [sentence.rstrip(".") for sentence in " ".join(str(error).split()).split(". ")]
    matching = [sentence for sentence in sentences if any(words in sentence for words in PHRASES)]
    if any(base.__name__ in TYPES for base in type(error).__mro__):
        matching += [sentences[0] or type(error).__name__]
    return matching[0] if matching else None
