"""Speed of the training loop compared with a plain one, and whether both learn alike. Run by `coopnet bench`."""

import os

SIDES = ("ours", "reference")
"""The loops that are compared."""


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
