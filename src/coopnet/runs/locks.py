"""A lock that tells whether another Snakemake is alive in this folder."""

import contextlib
import fcntl
import os
from pathlib import Path


def clear_stale(folder: Path) -> int:
    """Remove what a killed Snakemake left of its locks, unless another one is alive here.

    Every Snakemake holds a lock that dies with its process, shared with the others; who has it alone for a moment knows
    that whatever lies in `locks/` is nobody's.

    Args:
        folder: Snakemake's own, `.snakemake`.

    Returns:
        The descriptor of the lock, to be kept open for as long as the process lives.
    """
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / "alive.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else is alive, or the file system has no locks
        pass
    else:
        for left in (folder / "locks").glob("*"):
            left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle
