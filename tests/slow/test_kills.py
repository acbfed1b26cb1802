"""After kills at any moment, of any process, the same command ends with the bits of an undisturbed study.

Each kind of kill is a chain on a tiny study: start, kill at a random moment, start again, until the study is finished;
then again from an empty store, until enough kills have hit a live process. `KILLS` in the environment sets another
number of kills.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import engines_fixture
from coopnet.runs.stop import TIME_IS_UP
from engines_fixture import MAKE, NAME, TINY, Project

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "20"))
"""Number of kills of each kind that must hit a live process."""

STUDY = {"only": ["one3", "one3_to_5_split"], "time_scale": 0.03, "experiments": {}}
"""A run of 9 epochs and its grown child of 3."""

PATIENCE = 300.0
"""Seconds within which an undisturbed command ends."""

EPOCH = re.compile(r"^(\S+/seed\d+)  epoch (\d+)/\d+  .*$", re.MULTILINE)


@dataclass(frozen=True)
class Calm:
    """The undisturbed study.

    Attributes:
        beginning: the project before.
        everything: each of its promised files, by path.
        seconds: its duration.
        lives: duration of each of its trainings, in seconds.
    """

    beginning: Project
    everything: dict[str, bytes]
    seconds: float
    lives: list[float]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder for all projects."""
    folder = Path(tempfile.mkdtemp(prefix="coopnet-kills-"))
    folder.chmod(0o755)  # for other users
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def calm(place: Path) -> Calm:
    """The undisturbed study."""
    beginning = engines_fixture.fresh(place / "beginning" / "project")
    beginning.overlay.write_text(yaml.safe_dump(TINY | STUDY, sort_keys=False))
    beginning.commit()
    project = beginning.copy(place / "calm" / "project")
    seen: dict[int, list[float]] = {}
    began = time.monotonic()
    process = begin(project, *MAKE["snakemake"])
    while process.poll() is None:
        for pid in trainings(project):
            seen.setdefault(pid, [time.monotonic()] * 2)[1] = time.monotonic()
        time.sleep(0.1)
    assert process.returncode == 0, said(project)
    seconds = time.monotonic() - began
    lives = [last - first for first, last in seen.values()]
    print(f"undisturbed: {seconds:.1f} s, trainings of {lives} s")
    return Calm(beginning, everything(project), seconds, lives)


# Processes


def begin(project: Project, *command: str) -> "subprocess.Popen[bytes]":
    """Start a command in its own process group; its output is appended to the project's log."""
    words, environment = project.command(*command)
    environment = dict(environment) | {"COOPNET_SAVE_SECONDS": "0"}  # every epoch is on disk before the next begins
    with (project.root.parent / "log").open("ab") as log:
        return subprocess.Popen(
            words, cwd=project.root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def said(project: Project) -> str:
    """The end of the output of all commands on a project."""
    return (project.root.parent / "log").read_text()[-8000:]


def alive(project: Project) -> dict[int, list[str]]:
    """The arguments of every process that works in a project, by its id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cwd").resolve() == project.root.resolve():
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if words != [""]:  # a zombie
                    found[int(folder.name)] = words
    return found


def trainings(project: Project) -> list[int]:
    """The processes that train."""
    return [pid for pid, words in alive(project).items() if "train" in words]


def settle(project: Project) -> None:
    """Wait until no process works in a project."""
    end = time.monotonic() + PATIENCE
    while alive(project):
        assert time.monotonic() < end, alive(project)
        time.sleep(0.05)


def strike(pid: int, number: int = signal.SIGKILL, *, group: bool = False) -> bool:
    """Send a signal to a process or to its group; returns whether it existed."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait this long for a process; returns whether it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


# Checks


def everything(project: Project) -> dict[str, bytes]:
    """Every file whose content is promised, hidden ones too, by path: results, reports and checkpoints."""
    checkpoints = [path for path in (project.root / "checkpoints").rglob("*") if path.is_file()]
    promised = [path for path in checkpoints if path.name != "timing.csv"]
    return {str(path.relative_to(project.root)): path.read_bytes() for path in promised} | project.results()


@dataclass
class Diary:
    """Every epoch that a training has logged as done, by run and number, with its line."""

    told: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))

    def read(self, project: Project) -> None:
        """Read the current logs; a restarted job starts its log again."""
        for path in [project.root.parent / "log", *(project.root / "logs").rglob("*.log")]:
            if path.is_file():
                for line in EPOCH.finditer(path.read_text(errors="replace")):
                    self.told[line[1], int(line[2])].add(line[0])

    def repeated(self) -> list[tuple[str, int]]:
        """Epochs that were done and then trained again."""
        return [epoch for epoch, lines in self.told.items() if len(lines) > 1]


def compare(project: Project, calm: Calm) -> None:
    """All bits equal those of the undisturbed study, and there are no other files."""
    found = everything(project)
    assert sorted(found) == sorted(calm.everything)
    assert [path for path, content in found.items() if content != calm.everything[path]] == []


@dataclass
class Storm:
    """A chain of kills.

    Attributes:
        calm: the undisturbed study.
        place: a folder for its projects.
        command: the command that is started again and again.
        kill: sends its signal at some moment to the started command; returns whether it hit a live process.
        kills: required number of hits.
        hits: number of hits so far.
    """

    calm: Calm
    place: Path
    command: tuple[str, ...]
    kill: Callable[[Project, "subprocess.Popen[bytes]"], bool]
    kills: int = KILLS
    hits: int = 0

    def rage(self) -> None:
        """Kill, start again, and compare at each end."""
        studies = 0
        while self.hits < self.kills:
            studies += 1
            project = self.calm.beginning.copy(self.place / str(studies) / "project")
            diary = Diary()
            while not self.attempt(project, diary):
                pass
            settle(project)
            diary.read(project)
            if self.command[0] == "coopnet":
                project.make("snakemake")
            assert diary.repeated() == []
            compare(project, self.calm)
            project.assert_clean()
            shutil.rmtree(self.place / str(studies))
        print(f"{self.hits} kills in {studies} studies")

    def attempt(self, project: Project, diary: Diary) -> bool:
        """Start once; returns whether it ended undisturbed."""
        process = begin(project, *self.command)
        try:
            hit = self.hits < self.kills and self.kill(project, process)
            assert hit or wait(process, PATIENCE), said(project)
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                strike(process.pid, group=True)
        diary.read(project)
        self.hits += hit
        log = project.root.parent / "log"
        refused = not hit and process.returncode != 0
        if refused:  # by DVC, because it was killed while it wrote a lock
            mended = project.coopnet("record", NAME).said
            assert "was left half-written by a DVC that was killed" in mended, said(project)
        with log.open("a") as handle:
            handle.write(f"\n=== {'hit' if hit else 'ended'}: {process.returncode}\n")
        return not (hit or refused)


@pytest.mark.parametrize("victim", ["snakemake", "dvc", "group of snakemake", "group of dvc"])
def test_killed_engine(calm: Calm, place: Path, victim: str) -> None:
    """SIGKILL to an engine only, whose jobs live on, or with all its children: bit-identical, no epoch twice."""
    chance = random.Random(victim)
    engine = victim.split()[-1]

    def kill(project: Project, process: "subprocess.Popen[bytes]") -> bool:
        if wait(process, chance.uniform(0, calm.seconds / 3)):
            return False
        return strike(process.pid, group=victim.startswith("group"))

    Storm(calm, place / victim, MAKE[engine], kill).rage()


def test_killed_training(calm: Calm, place: Path) -> None:
    """SIGKILL to a training under Snakemake at a random moment: bit-identical, no epoch twice."""
    chance = random.Random("training")

    def kill(project: Project, process: "subprocess.Popen[bytes]") -> bool:
        while not trainings(project):
            if wait(process, 0.05):
                return False
        time.sleep(chance.uniform(0, max(calm.lives)))
        return any(strike(pid) for pid in trainings(project)[:1])

    Storm(calm, place / "training", MAKE["snakemake"], kill).rage()


@pytest.mark.parametrize("whom", ["training", "group of snakemake"])
def test_sigterm_with_a_grace_period(calm: Calm, place: Path, whom: str) -> None:
    """SIGTERM, then SIGKILL to remaining processes, as cluster schedulers do: bit-identical."""
    chance = random.Random(f"grace {whom}")
    command = ("coopnet", "train", NAME, "one3", "0") if whom == "training" else MAKE["snakemake"]
    most = max(calm.lives) if whom == "training" else calm.seconds / 3

    def kill(project: Project, process: "subprocess.Popen[bytes]") -> bool:
        if wait(process, chance.uniform(0, most)):
            return False
        hit = strike(process.pid, signal.SIGTERM, group=True)
        wait(process, chance.uniform(0, 3))
        strike(process.pid, group=True)
        return hit

    Storm(calm, place / f"grace {whom}", command, kill, KILLS // 2).rage()


def test_limited_time(calm: Calm, place: Path) -> None:
    """`--max-minutes`, too short each time: exit code 75 until it is 0, then bit-identical."""
    chance = random.Random("minutes")
    project = calm.beginning.copy(place / "minutes" / "project")
    codes, diary = [], Diary()
    for experiment in STUDY["only"]:
        if experiment == "one3_to_5_split":
            project.coopnet("transfer", NAME, experiment, "0")
        code = TIME_IS_UP
        while code:
            minutes = f"{chance.uniform(0, max(calm.lives) / 60):.4f}"
            process = begin(project, "coopnet", "train", NAME, experiment, "0", "--max-minutes", minutes)
            code = process.wait(PATIENCE)
            codes.append(code)
            diary.read(project)
            assert code in (0, TIME_IS_UP), said(project)
    assert TIME_IS_UP in codes
    assert diary.repeated() == []
    project.make("snakemake")
    compare(project, calm)
