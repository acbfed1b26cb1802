"""Two users, two engines, two clones, one run store: no half-written file is visible, and locks end with owners."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from coopnet import files
from coopnet.runs.workspace import MADE
from engines_fixture import MAKE, NAME, Project, ordinary_user
from test_kills import Calm, begin, calm, compare, everything, place, said, wait

__all__ = ["calm", "place"]  # the fixtures

pytestmark = pytest.mark.slow

GROUP = 65532
"""The group that the two users share."""


@dataclass
class Clone(Project):
    """A clone that shares its run store.

    Attributes:
        shared: the store.
        number: id of the user; None for the current user.
    """

    shared: Path = Path()
    number: int | None = None

    @property
    def store(self) -> Path:
        """The shared store."""
        return self.shared

    def command(self, *arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
        """The command line with which this user starts a command."""
        words, environment = super().command(*arguments)
        environment["COOPNET_STORE"] = str(self.shared)
        if self.number is None:
            return words, environment
        become = [
            word.replace("65534", str(self.number)).replace("--clear-groups", f"--groups={GROUP}")
            for word in ordinary_user()
        ]
        return [*become, "sh", "-c", 'umask 002; exec "$@"', "sh", *words], environment


def clones(calm: Calm, folder: Path, numbers: tuple[int | None, int | None]) -> list[Clone]:
    """Two clones, one per user, and an empty store that both may write."""
    store = folder / "store"
    store.mkdir(parents=True)
    if None not in numbers:
        os.chown(store, -1, GROUP)
        store.chmod(0o2775)
    made = []
    for name, number in zip("ab", numbers, strict=True):
        root = calm.beginning.copy(folder / name / "project").root
        if number is not None:
            subprocess.run(["chown", "-R", f"{number}:{number}", root.parent], check=True)
        clone = Clone(root, shared=store, number=number)
        clone.command("true")  # creates the home
        if number is not None:
            os.chown(root.parent / "home", number, number)
        made.append(clone)
    return made


USERS = {
    "one user": (None, None),
    "two users": pytest.param(
        (1, 65534),  # daemon and nobody, since Snakemake needs users with names
        marks=pytest.mark.skipif(
            os.getuid() != 0 or not shutil.which("setpriv"), reason="becoming two other users takes root, and setpriv"
        ),
    ),
}
each_users = pytest.mark.parametrize("numbers", USERS.values(), ids=USERS.keys())


# The watcher


@dataclass
class Watcher:
    """Reads every file with a final name again and again, and records problems.

    Attributes:
        folders: the folders to watch.
        wrong: files that were half-written, or did not match their record.
        looks: number of files that were read.
    """

    folders: list[Path]
    wrong: list[str] = field(default_factory=list)
    looks: int = 0
    known: dict[Path, Any] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch as long as the block lasts."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def _watch(self) -> None:
        while not self.over.is_set():
            for folder in self.folders:
                for path in visible(folder):
                    self._look(path)

    def _look(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            stat = path.stat()
            facts = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self.known.get(path) == facts:
                return
            try:
                check(path)
            except (AssertionError, ValueError, safetensors.SafetensorError) as error:
                if path.exists():
                    self.wrong.append(f"{path}: {error!r}")
            self.known[path] = facts
            self.looks += 1


def visible(folder: Path) -> Iterator[Path]:
    """All files in a folder that are not hidden, nor in a hidden one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in list(os.scandir(folder)):
            if not entry.name.startswith("."):
                if entry.is_dir(follow_symlinks=False):
                    yield from visible(Path(entry.path))
                else:
                    yield Path(entry.path)


def check(path: Path) -> None:
    """Read a file completely, and the files that it names.

    Raises:
        AssertionError: it is half-written, or a file that it names is.
        ValueError: it is not valid JSON.
        safetensors.SafetensorError: it is not valid safetensors.
    """
    content = path.read_bytes()
    if path.suffix == ".json":
        record = json.loads(content)
        listed = record.get("files") if isinstance(record, dict) else None
        for name, facts in (listed or {}).items():
            digest = facts["sha256"] if isinstance(facts, dict) else facts
            beside = path.parent / name
            if "/store/runs/" in str(path) or beside.exists():
                assert files.sha256(beside) == digest, name
    elif path.suffix == ".safetensors":
        safetensors.numpy.load(content)
    elif path.suffix in ENDS:
        assert content.endswith(ENDS[path.suffix]), content[-20:]


ENDS = {
    ".csv": b"\n",
    ".jsonl": b"\n",
    ".html": b"</html>\n",
    ".md": b"\n",
    ".pdf": b"%%EOF",
    ".png": b"IEND\xaeB`\x82",
}
"""The last bytes of complete files of a kind."""


def watched(*projects: Clone) -> Watcher:
    """A watcher of all files of these clones and their store."""
    parts = [project.root / part for project in projects for part in ("data", "checkpoints", "results", "reports")]
    return Watcher([*parts, *(project.root / ".stamps" for project in projects), projects[0].shared])


# Two at once


@each_users
@pytest.mark.parametrize("engines", [("snakemake", "dvc"), ("snakemake", "snakemake")], ids="-".join)
def test_two_clones_share_the_work(
    calm: Calm, place: Path, engines: tuple[str, str], numbers: tuple[int | None, int | None]
) -> None:
    """Started together, each run is trained once in total, both have all results, and no reader sees half a file."""
    both = clones(calm, place / f"{'-'.join(engines)}-{numbers[0]}", numbers)
    watcher = watched(*both)
    with watcher.watching():
        processes = [begin(clone, *MAKE[engine]) for clone, engine in zip(both, engines, strict=True)]
        codes = [process.wait(600) for process in processes]
    assert codes == [0, 0], [said(clone) for clone in both]
    assert watcher.wrong == []
    assert watcher.looks > 100
    events = [event for event in both[0].events() if not event["run"].endswith("at transfer")]
    trained = Counter((event["event"], event["run"]) for event in events)
    assert trained == {
        (event, f"{NAME}/{run}/seed0"): 1 for event in ("trained", "finished") for run in ("one3", "one3_to_5_split")
    }
    for clone in both:
        compare(clone, calm)


@each_users
def test_lock_dies_with_its_owner(calm: Calm, place: Path, numbers: tuple[int | None, int | None]) -> None:
    """A waiting process continues the run of a killed owner to the same bits; the other one copies it."""
    first, second = clones(calm, place / f"lock-{numbers[0]}", numbers)
    command = ("coopnet", "train", NAME, "one3", "0")
    owner = begin(first, *command)
    until(lambda: first.saved("one3/seed0"), owner, first)
    waiter = begin(second, *command)
    until(lambda: "waiting for it" in said(second), waiter, second)
    assert not wait(waiter, 1.0)
    os.killpg(owner.pid, 9)
    owner.wait()
    assert waiter.wait(300) == 0, said(second)
    assert [event["event"] for event in second.events()] == ["trained", "resumed", "finished"]
    assert second.events()[-1]["pid"] != second.events()[0]["pid"]
    assert "nothing to train" in first.coopnet("train", NAME, "one3", "0").said
    for clone in (first, second):
        assert everything(clone) == trained(calm)
    assert list((first.shared / "unfinished").iterdir()) == []


@each_users
def test_each_mends_what_the_other_made(calm: Calm, place: Path, numbers: tuple[int | None, int | None]) -> None:
    """A damaged entry of one user is set aside by the other, whoever set the last one aside, and removed."""
    first, second = clones(calm, place / f"mend-{numbers[0]}", numbers)
    command = ("train", NAME, "one3", "0")
    first.coopnet(*command)
    for clone in (second, first):
        [entry] = (first.shared / "runs").iterdir()
        with (entry / "logits.safetensors").open("r+b") as logits:
            logits.truncate(100)
        shutil.rmtree(clone.root / "checkpoints" / NAME, ignore_errors=True)
        assert "damaged" in clone.coopnet(*command).said
    assert everything(first) == everything(second) == trained(calm)
    second.coopnet("runs", "gc", "--yes")
    assert list((first.shared / "damaged").iterdir()) == []


def trained(calm: Calm) -> dict[str, bytes]:
    """The files of an undisturbed training of `one3`."""
    return {
        path: content for path, content in calm.everything.items() if "/one3/seed0/" in path and Path(path).name in MADE
    }


def until(happened: Callable[[], Any], process: "subprocess.Popen[bytes]", project: Project) -> None:
    """Wait until something happens; the process must not end before."""
    end = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, said(project)
        assert time.monotonic() < end, said(project)
        time.sleep(0.05)
