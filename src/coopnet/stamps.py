"""Tiny files that tell a workflow engine, by their dates, what it has to ask for.

Snakemake goes by file times. Its own memory of parameters (`.snakemake/metadata`) does not know of a run that
`coopnet train` or another engine made, so an edit of such a run's row would go unseen. A run's stamp is an input of
its rule: older than every output while the run's own record is the one the plan has, and new as soon as it is not.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coopnet import files, numerics

LONG_AGO = 315532800.0  # 1980: older than any output


def mark_run(stamp: Path, key: str, record: Path) -> None:
    """Date the stamp of a run: long ago if `record` (its `run.json`) is of `key`, now if it is not.

    Now, and not when that was first seen: what lies there may have been put there since, by `git checkout` for one.
    """
    if files.look(record, "key") != key:
        files.write_text(stamp, key)
        return
    if not stamp.is_file() or stamp.read_text() != key:
        files.write_text(stamp, key)
    os.utime(stamp, (LONG_AGO, LONG_AGO))


def mark(stamp: Path, content: str) -> None:
    """Write a stamp whose date is that of the last change of its content."""
    if not stamp.is_file() or stamp.read_text() != content:
        files.write_text(stamp, content)


def source_of(*packages: Path) -> str:
    """Fingerprint of the Python source and templates below folders, in hex; comments and docstrings do not count."""
    return _digest(
        numerics.fingerprint(path.read_text(encoding="utf-8")) if path.suffix == ".py" else files.sha256(path)
        for package in packages
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    )


def digest_of(content: Any) -> str:
    """Fingerprint of plain values, in hex."""
    return _digest([json.dumps(content, sort_keys=True)])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
