"""DVC's command line: commit stages, wait for its locks, and mend files that a killed DVC left incomplete.

DVC itself is not imported. It is run as a process of its own.
"""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

from coopnet.files import yaml_files
from coopnet.files.errors import CoopNetError
from coopnet.study import FULL

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds to wait until another DVC process releases its locks."""

BUSY = ("Unable to acquire lock", "is busy")
"""DVC's error messages if another DVC process holds its locks."""


class Unknown(CoopNetError):
    """DVC does not know the folder, or the study."""


def check_repository(root: Path, study: str) -> None:
    """Refuse a folder in which DVC cannot work, and a study that has no stages there.

    Raises:
        Unknown: it is not a repository of DVC and git, or has no stages for this study.
        CoopNetError: `studies/dvc.yaml` cannot be read.
    """
    above = (root.absolute(), *root.absolute().parents)  # git's folder may be further up (`dvc init --subdir`)
    for folder, remedy, places in ((".dvc", "dvc init", above[:1]), (".git", "git init", above)):
        if not any((place / folder).exists() for place in places):
            raise Unknown(f"{root.absolute()} has no {folder}, so DVC cannot record here; `{remedy}`")
    if study != FULL and study not in _stages(root / "studies" / "dvc.yaml", "plan"):
        raise Unknown(
            f"DVC has no stages for the study {study}; add its name to the list at the top of studies/dvc.yaml, then "
            f"`coopnet record {study}`"
        )


def datasets(root: Path) -> list[str]:
    """The datasets whose preparation is a stage of `dvc.yaml`."""
    return _stages(root / "dvc.yaml", "prepare")


def _stages(path: Path, name: str) -> list[str]:
    """The items of a stage with `foreach`: a list, or `${name}` of a list among the file's `vars`.

    Raises:
        CoopNetError: the file has another form.
    """
    if not path.is_file():
        return []
    content = yaml_files.read(path)
    try:
        items = content["stages"][name]["foreach"]
        if isinstance(items, str):
            (items,) = (one[items[2:-1]] for one in content["vars"] if items[2:-1] in one)
        return list(map(str, items))
    except (KeyError, TypeError, ValueError) as error:
        raise CoopNetError(f"{path} has no stage {name} with foreach over a list; take the file from git") from error


def lock(root: Path, study: str) -> Path:
    """The file in which DVC records the stages of a study."""
    return root / ("dvc.lock" if study == FULL else "studies/dvc.lock")


def address(study: str, phase: str) -> str:
    """DVC's name of a study's stage."""
    return phase if study == FULL else f"studies/dvc.yaml:{phase}@{study}"


def commit(root: Path, *addresses: str) -> None:
    """Run `dvc commit` for these stages, so that DVC's locks describe the files in the workspace.

    DVC writes `dvc.lock` and its `rwlock` in place. If a killed DVC left one incomplete, the next DVC refuses to start.
    Only after such a refusal is the file removed and written again, because until then another DVC may still be
    writing it.

    Raises:
        CoopNetError: DVC failed.
    """
    arguments = ("commit", "--force", "--no-relink", *addresses)  # --quiet would hide errors too
    try:
        _run(root, *arguments)
    except CoopNetError:
        incomplete = _incomplete_files(root)
        if not incomplete:
            raise
        for path in incomplete:
            log.warning("%s was left half-written by a DVC that was killed; it is removed", path)
            path.unlink()
        _run(root, *arguments)


def _incomplete_files(root: Path) -> list[Path]:
    """The files that DVC writes in place and that lack their end."""
    locks = [root / "dvc.lock", root / "studies" / "dvc.lock"]
    incomplete = [path for path in locks if path.is_file() and not _is_whole(path.read_bytes())]
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    return incomplete + [rwlock] * (rwlock.is_file() and not _is_json(rwlock.read_bytes()))


def _is_whole(lock: bytes) -> bool:
    """Whether a `dvc.lock` has its first line, and a last line that is complete and has a value."""
    return lock.startswith(b"schema:") and lock.endswith(b"\n") and not lock.endswith(b":\n")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _run(root: Path, *arguments: str) -> None:
    """Run DVC, and wait while another DVC process holds its locks.

    Raises:
        CoopNetError: DVC failed.
    """
    patient_until = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True)
        if done.returncode == 0:
            return
        busy = any(words in done.stderr for words in BUSY)
        if not busy or time.monotonic() > patient_until:
            raise CoopNetError(f"dvc {arguments[0]} failed: {_last_lines(done.stderr or done.stdout)}")
        time.sleep(1)


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Having any troubles"))[-2000:]
