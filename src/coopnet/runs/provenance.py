"""What a result was made with: code, libraries and device. Recorded beside it, never part of its key."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coopnet import __version__
from coopnet.study import numerics

LIBRARIES = ("torch", "numpy", "scipy", "safetensors")
"""Those whose code computes a run's numbers."""


def libraries() -> dict[str, str]:
    """Versions, Python's included."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def source() -> str:
    """Version of the numerics to the letter: of two that compute the same bits each is one of its own."""
    return numerics.own_version()


def code() -> dict[str, Any]:
    """Version of the package, hash of the numerics' source, and the commit where the source is a git checkout.

    `modified` says whether the source differs from that commit; None where there is no git.
    """
    source = Path(__file__).parent.parent
    commit = _git(source, "rev-parse", "HEAD")
    changes = _git(source, "status", "--porcelain", "--", ".")
    return {
        "version": __version__,
        "numerics": numerics.source_hash(),
        "commit": commit or None,
        "modified": None if changes is None else bool(changes),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
