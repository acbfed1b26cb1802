"""Code, libraries and device behind a result. They are recorded beside it and are not part of its key."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coopnet import __version__
from coopnet.files.errors import CoopNetError
from coopnet.study import numerics

LIBRARIES = ("torch", "numpy", "scipy", "safetensors")
"""The libraries whose code computes a run's numbers."""

COMMIT = "COOPNET_COMMIT"
"""Environment variable with the commit of source that was copied without its git repository."""


def libraries() -> dict[str, str]:
    """Versions of Python and of these libraries."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def source() -> str:
    """Version of exactly this source of the numerics, even where an earlier version computes the same bits."""
    return numerics.own_version()


def code() -> dict[str, Any]:
    """Version of the package, hash of the numerics' source, and the git commit of the source.

    `modified` says whether the source differs from that commit; it is None without git. Without git the commit is read
    from `COOPNET_COMMIT`.

    Raises:
        CoopNetError: `COOPNET_COMMIT` is not a full commit hash.
    """
    source = Path(__file__).parent.parent
    # Inside another project's repository, as in its .venv, git knows that project and not this source.
    ours = git(source, "ls-files", "--error-unmatch", "__init__.py") is not None
    commit = (git(source, "rev-parse", "HEAD") if ours else None) or os.environ.get(COMMIT)
    if commit and not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):
        raise CoopNetError(f"{COMMIT} is {commit[:100]!r}; set it to the full hexadecimal hash of a commit")
    changes = git(source, "status", "--porcelain", "--", ".") if ours else None
    return {
        "version": __version__,
        "numerics": numerics.source_hash(),
        "commit": commit or None,
        "modified": None if changes is None else bool(changes),
    }


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
