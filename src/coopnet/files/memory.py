"""Recognises errors of exhausted memory, for which PyTorch and its libraries have no common type."""

PHRASES = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "_STATUS_ALLOC_FAILED")
"""Phrases of PyTorch and its libraries for exhausted memory."""

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
