"""The run store: finished runs by key, so that no run is trained twice.

    <store>/runs/<key>/         a finished run: its record run.json and the files whose digests the record has
    <store>/unfinished/<key>/   the state with which an interrupted run continues
    <store>/locks/<key>.lock    held by the process that makes the run; the kernel releases it when that process dies
    <store>/journal.jsonl       one line per event: where and when a run was trained; only `speed` reads it

A finished run is copied into the workspace (sharing blocks where the file system can) and never linked, so that
damage to an output cannot reach the store.
"""

import configparser
import contextlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from coopnet import files
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs import provenance, records
from coopnet.runs.records import RECORD

log = logging.getLogger(__name__)

VARIABLE = "COOPNET_STORE"
JOURNAL = "journal.jsonl"


def default_place(root: Path) -> Path:
    """The folder of a workspace's store: `$COOPNET_STORE`, else `coopnet-runs` in DVC's cache folder.

    DVC's configuration files are read, local before shared. A temporary workspace of a DVC experiment has a local
    configuration that points to the original cache, and a linked git worktree shares its main worktree's `.dvc`.

    Raises:
        CoopNetError: DVC's configuration cannot be read.
    """
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).absolute()
    root = root.absolute()
    shared = _main_worktree(root) / ".dvc"
    for path in (root / ".dvc" / "config.local", shared / "config.local", shared / "config"):
        config = configparser.ConfigParser(interpolation=None, inline_comment_prefixes="#")
        try:
            config.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise CoopNetError(f"{path} is not a DVC configuration: {' '.join(str(error).split())}") from error
        folder = config.get("cache", "dir", fallback=None)
        if folder:
            return (path.parent / folder.strip("\"'")).resolve() / "coopnet-runs"
    return shared / "cache" / "coopnet-runs"


def _main_worktree(root: Path) -> Path:
    """The main worktree of a linked one (`git worktree add`); any other folder is returned unchanged.

    A bare repository has no main worktree, so a worktree of it is returned unchanged too.
    """
    link = root / ".git"
    if link.is_file():
        git = root / link.read_text(encoding="utf-8").removeprefix("gitdir:").strip()  # the path may be relative
        common = git / "commondir"
        if common.is_file():
            shared = (git / common.read_text(encoding="utf-8").strip()).resolve()
            return shared.parent if shared.name == ".git" else root
    return root


def other_worktrees(root: Path) -> list[Path]:
    """The same folder in the other worktrees of its git repository that have the same store.

    Raises:
        CoopNetError: git cannot say, as in a repository of another user.
    """
    prefix = provenance.git(root, "rev-parse", "--show-prefix") or ""
    listed = provenance.git(root, "worktree", "list", "--porcelain")
    if listed is None and any((place / ".git").exists() for place in (root.absolute(), *root.absolute().parents)):
        raise CoopNetError(
            "git cannot list the worktrees of this repository, which may share its run store; look at what "
            "`git worktree list` says here"
        )
    lines = (listed or "").splitlines()
    tops = [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]
    others = [top / prefix for top in tops if (top / ".git").exists()]  # neither a bare repository nor a removed folder
    return [path for path in others if path.resolve() != root.resolve() and default_place(path) == default_place(root)]


class Store:
    """A folder of runs."""

    def __init__(self, place: Path):
        self.place = place

    def finished(self, key: str) -> bool:
        """Whether that run is finished: its record is readable and all files that it lists exist."""
        listed = files.read_field(self.folder(key) / RECORD, "files")
        return isinstance(listed, dict) and all((self.folder(key) / name).is_file() for name in listed)

    def unfinished(self, key: str) -> Path:
        """The folder for the state of that unfinished run."""
        return self.place / "unfinished" / key

    def epochs_done(self, key: str) -> int | None:
        """Finished epochs of an interrupted run, on the machine with the most; None if there is no state."""
        states = [files.read_field(path, "facts") for path in self.unfinished(key).glob("*/state.json")]
        return max((facts["epoch"] for facts in states if isinstance(facts, dict) and "epoch" in facts), default=None)

    def lock(self, key: str) -> FileLock:
        """The lock of a run, not yet acquired. It uses `flock`, so it is never left behind."""
        path = self.place / "locks" / f"{key}.lock"
        with _writing(self.place):
            path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def add(self, key: str, folder: Path) -> None:
        """Move a finished run into the store in one step; `folder` must be on the store's file system."""
        target = self.folder(key)
        if target.exists():  # the existing entry was unusable, otherwise the run would not have been made again
            self._set_aside(key)
        with _writing(self.place):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)

    def restore(self, key: str, targets: Mapping[str, Path]) -> bool:
        """Copy files of a finished run into a workspace.

        Args:
            key: key of the run.
            targets: for each file of the entry, its path in the workspace.

        Returns:
            Whether that succeeded. A damaged entry is set aside, so that the run is made again.
        """
        folder = self.folder(key)
        if not folder.exists():
            return False
        unreadable = [path for path in map(folder.joinpath, targets) if path.exists() and not os.access(path, os.R_OK)]
        if unreadable:  # the files may be intact; only this user cannot read them
            raise CoopNetError(
                f"cannot read {unreadable[0]} of the run store: permission denied; let its owner make it readable, "
                f"or set {VARIABLE} to a folder of your own"
            )
        digests = Digests()
        problem = records.check_files({name: folder / name for name in targets}, key, "this run", digests)
        if problem:
            log.warning("the run store is damaged: %s; the run is made again", problem.text)
            self._set_aside(key)
            return False
        for name, target in sorted(targets.items(), key=lambda item: item[0].endswith(".json")):  # records come last
            if target.is_file() and digests(target) == digests(folder / name):
                digests.date(target)  # an engine that compares dates would otherwise request it each time
            else:
                files.copy(folder / name, target)
        return True

    def add_copy(self, key: str, sources: Mapping[str, Path]) -> None:
        """Copy a finished run from a workspace into the store.

        Args:
            key: key of the run.
            sources: for each file of the entry, its path in the workspace.
        """
        folder = self.unfinished(key) / "files"
        with _writing(self.place):
            shutil.rmtree(folder, ignore_errors=True)
        for name, source in sources.items():
            files.copy(source, folder / name)
        self.add(key, folder)
        shutil.rmtree(self.unfinished(key), ignore_errors=True)

    def log_event(self, event: str, key: str, run: str) -> None:
        """Add a line to the journal.

        Args:
            event: `trained` when a run starts from its first image, `resumed` when it continues, `finished` at its end.
            key: key of the run.
            run: its study and name.
        """
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"time": time, "event": event, "run": run, "key": key, "host": platform.node(), "pid": os.getpid()}
        with _writing(self.place):
            self.place.mkdir(parents=True, exist_ok=True)
            # One short write, so that lines never mix. A line that a full disk cut short is ended first.
            with (self.place / JOURNAL).open("ab+") as journal:
                cut = journal.tell() and journal.seek(-1, os.SEEK_END) >= 0 and journal.read(1) != b"\n"
                journal.write(b"\n" * bool(cut) + json.dumps(line).encode() + b"\n")

    def journal(self) -> Iterator[dict[str, Any]]:
        """The events of the journal, oldest first, without lines that a full disk cut short."""
        try:
            lines = (self.place / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            with contextlib.suppress(ValueError):
                if isinstance(event := json.loads(line), dict):
                    yield event

    def remove(self, folder: Path) -> None:
        """Delete one of `folders`; the caller holds its lock."""
        with _writing(self.place):
            shutil.rmtree(folder)

    def folder(self, key: str) -> Path:
        """The folder of a finished run."""
        return self.place / "runs" / key

    def folders(self) -> list[tuple[str, Path]]:
        """The kind and path of each run's folder, sorted by key; a kind is `finished`, `unfinished` or `damaged`."""
        kinds = {"finished": "runs", "unfinished": "unfinished", "damaged": "damaged"}
        return [(kind, path) for kind, name in kinds.items() for path in sorted((self.place / name).glob("[!.]*"))]

    def _set_aside(self, key: str) -> None:
        aside = self.place / "damaged" / key
        with _writing(self.place):
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(parents=True, exist_ok=True)
            self.folder(key).rename(aside)


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CoopNetError(
            f"cannot write {error.filename or 'a file'} of the run store {place}: {files.reason(error)}, "
            f"or set {VARIABLE} to a folder that can be written"
        ) from error


def acquire(lock: FileLock, name: str, seconds: float = -1) -> bool:
    """Acquire a run's lock, with a log line if another process holds it.

    Args:
        lock: lock of the run.
        name: name of the run, for the message.
        seconds: longest time to wait; -1 for no limit.

    Returns:
        Whether it was acquired in that time.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s is being made by another process; waiting for it", name)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return False
    except OSError as error:
        raise CoopNetError(f"cannot lock {lock.lock_file}: {files.reason(error)}, or set {VARIABLE}") from error
    return True
