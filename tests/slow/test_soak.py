"""A week in miniature: random runs, kills, edits, damage and clean-ups; the result at the end is a valid study.

`SOAK_RUNS` and `SOAK_SEED` in the environment set the number of runs and the random sequence.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from coopnet import study
from coopnet.runs.store import Store
from coopnet.study import Run
from tiny_fixture import BIN, TINY, bits, call, make_workspace

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("SOAK_RUNS", "200"))
SEED = int(os.environ.get("SOAK_SEED", "8"))

ROOTS = ["baseline", "one1", "one3", "one3_no_distillation", "mutual2"]
CHILDREN = ["one3_continued", "one3_to_5_zero_pad", "one3_to_5_masked", "one3_to_5_split", "baseline_self_distilled"]

STUDY: dict[str, Any] = {**TINY, "only": ROOTS + CHILDREN, "time_scale": 0.007, "experiments": {}}
"""Ten rows of one or two epochs."""

SNAKEMAKE = ("snakemake", "--cores", "2", "--config", "study=tiny")

EXPECTED = (
    "is missing, is damaged, or was made with other parameters",
    "were edited while it was trained",
    "was damaged while it was written",
    "has no experiment|is not .*of study|unknown|no run|seeds",
    "is missing or damaged",
)
"""Messages that a command may print while files are damaged and edited; it never prints a traceback."""


@dataclass
class Asked:
    """A requested run, its start, the time of its kill, and its output."""

    process: "subprocess.Popen[str]"
    name: str
    began: float
    doom: float
    log: Path


@dataclass
class Week:
    """The events in a workspace.

    Attributes:
        workspace: the workspace.
        store: its run store.
        chance: the random generator.
        overlays: earlier versions of the study.
        running: commands in progress, at most two.
        asked: number of requested runs.
        longest: longest duration of a finished run, in seconds.
        happened: number of events of each kind.
    """

    workspace: Path
    store: Store
    chance: random.Random
    overlays: list[dict[str, Any]] = field(default_factory=lambda: [STUDY])
    running: list[Asked] = field(default_factory=list)
    asked: int = 0
    longest: float = 4.0
    happened: Counter[str] = field(default_factory=Counter)

    def pass_by(self) -> None:
        """Let events happen until enough runs were requested, and wait for all of them."""
        actions = {self.ask: 60, self.edit: 8, self.go_back: 5, self.lose_outputs: 8, self.damage_output: 6}
        actions |= {self.lose_entry: 3, self.damage_store: 6, self.touch: 3, self.clear_up: 1}
        self.write(STUDY)
        step = 0
        while self.asked < RUNS:
            [action] = self.chance.choices(list(actions), weights=list(actions.values()))
            step += 1
            try:
                action()
                self.reap(most=1)
            except Exception as error:
                raise AssertionError(f"SOAK_SEED={SEED}, step {step}, {action.__name__}, {self.asked} asked") from error
            self.happened[action.__name__] += 1
        self.reap(most=0)

    # Runs

    def ask(self) -> None:
        """Request a run, or its parent if that is missing."""
        plan = study.load(self.workspace, "tiny")
        run = self.chance.choice(list(plan.runs.values()))
        while missing := [source for source in run.sources if not self.store.finished(source.key)]:
            run = missing[0]
        self.start(run, "transfer" if run.at_transfer else "train")
        self.asked += 1

    def start(self, run: Run, command: str) -> None:
        """Start a command for a run, which may be killed within its expected duration."""
        log = self.workspace.parent / f"{self.asked}.log"
        with log.open("w") as said:
            process = subprocess.Popen(
                [BIN / "coopnet", command, "tiny", run.experiment, str(run.seed)],
                cwd=self.workspace,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        doomed = self.chance.random() < 0.5
        now = time.monotonic()
        doom = now + self.chance.uniform(0, self.longest) if doomed else float("inf")
        self.running.append(Asked(process, run.name, now, doom, log))

    def reap(self, most: int) -> None:
        """Kill due commands until at most this many run; commands that ended by themselves must end properly."""
        while len(self.running) > most:
            for asked in list(self.running):
                if time.monotonic() > asked.doom:
                    asked.process.kill()
                    asked.process.wait()
                if asked.process.poll() is not None:
                    self.running.remove(asked)
                    if asked.process.returncode == 0:
                        self.longest = max(self.longest, time.monotonic() - asked.began)
                    self.judge(asked.process.returncode, asked.log.read_text(), asked.name)
            time.sleep(0.02)

    def judge(self, code: int, said: str, name: str) -> None:
        """Refuse an unexpected end."""
        self.happened[f"exit code {code}"] += 1
        assert "Traceback" not in said, (name, said)
        if code == -signal.SIGKILL:
            self.happened["killed after an epoch"] += "epoch 1/" in said
        elif code:
            assert any(re.search(words, said) for words in EXPECTED), (name, said)

    # The study

    def write(self, content: dict[str, Any]) -> None:
        """Save the overlay at once, like an editor."""
        path = self.workspace / "studies" / "tiny.yaml"
        path.with_suffix(".new").write_text(yaml.safe_dump(content))
        path.with_suffix(".new").replace(path)

    def edit(self) -> None:
        """Edit a learning rate, seed, title or length, or add or remove a row."""
        before = self.overlays[-1]
        row = self.chance.choice(before["only"])
        others = [child for child in CHILDREN if child not in before["only"]]
        removable = [child for child in CHILDREN if child in before["only"]]
        rate = {row: {"training": {"optimizer": {"lr": self.chance.choice([0.01, 0.02, 0.05])}}}}
        changes: list[dict[str, Any]] = [
            {"experiments": before["experiments"] | rate},
            {"experiments": {}},
            {"seeds": self.chance.choice([[0], [0, 1]])},
            {"title": self.chance.choice(["Tiny", "Small"])},
            {"time_scale": self.chance.choice([0.007, 0.01])},
        ]
        changes += [{"only": [*before["only"], others[0]]}] if others else []
        if removable:
            gone = self.chance.choice(removable)
            rows = {name: content for name, content in before["experiments"].items() if name != gone}
            changes.append({"only": [name for name in before["only"] if name != gone], "experiments": rows})
        self.overlays.append(before | self.chance.choice(changes))
        self.write(self.overlays[-1])

    def go_back(self) -> None:
        """Restore an earlier state of the study, like `git checkout`."""
        self.overlays.append(self.chance.choice(self.overlays))
        self.write(self.overlays[-1])

    # Loss and damage

    def outputs(self) -> list[Path]:
        """All files of results and checkpoints."""
        found = [*(self.workspace / "results").rglob("*"), *(self.workspace / "checkpoints").rglob("*")]
        return sorted(path for path in found if path.is_file() and not path.name.startswith("."))

    def lose_outputs(self) -> None:
        """Delete a file, or all files of a run."""
        if outputs := self.outputs():
            path = self.chance.choice(outputs)
            if self.chance.random() < 0.5:
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def damage_output(self) -> None:
        """Flip a bit of an output, or truncate it."""
        if outputs := self.outputs():
            self.damage(self.chance.choice(outputs))

    def touch(self) -> None:
        """Set the date of a file to now, or to long ago."""
        if outputs := self.outputs():
            date = self.chance.choice([time.time(), 1e9])
            self.try_to(lambda: os.utime(self.chance.choice(outputs), (date, date)))

    def lose_entry(self) -> None:
        """Delete a run from the store."""
        if found := sorted((self.store.place / "runs").glob("*")):
            shutil.rmtree(self.chance.choice(found), ignore_errors=True)

    def damage_store(self) -> None:
        """Damage a file in the store, of a finished or an unfinished run."""
        folder = self.store.place / self.chance.choice(["runs", "unfinished"])
        # Files that are being written have no digest yet, so they cannot be protected.
        found = [path for path in folder.glob("*/*") if path.is_file()] if folder.name == "runs" else []
        found += [path for path in folder.glob("*/*/*") if path.is_file() and path.parent.name != "files"]
        if found := sorted(path for path in found if not path.name.startswith(".")):
            self.damage(self.chance.choice(found))

    def damage(self, path: Path) -> None:
        """Flip a bit of a file, or truncate it."""

        def change() -> None:
            content = bytearray(path.read_bytes())
            place = self.chance.randrange(max(1, len(content)))
            if content and self.chance.random() < 0.5:
                content[place] ^= 1 << self.chance.randrange(8)
            else:
                del content[place:]
            path.write_bytes(content)

        self.try_to(change)

    def try_to(self, change: Callable[[], None]) -> None:
        """Change a file that may be removed meanwhile."""
        try:
            change()
        except FileNotFoundError:
            self.happened["came too late"] += 1

    def clear_up(self) -> None:
        """`coopnet runs gc --yes`."""
        done = call(self.workspace, "coopnet", "runs", "gc", "--yes")
        assert done.returncode == 0, done.stderr


def test_after_a_week_all_is_as_if_made_from_scratch(tmp_path: Path, prepared: Path) -> None:
    """Runs are requested and killed amid edits, losses and damage; then one `snakemake` gives the same bytes."""
    workspace = make_workspace(tmp_path / "week" / "workspace", prepared)
    week = Week(workspace, Store(tmp_path / "store"), random.Random(SEED))
    week.pass_by()
    print(f"SOAK_SEED={SEED}: {dict(week.happened)}")
    assert week.happened["exit code -9"] > RUNS / 10
    done = call(workspace, *SNAKEMAKE)
    if done.returncode:
        pytest.fail(f"SOAK_SEED={SEED}: {done.stderr}")

    scratch = make_workspace(tmp_path / "scratch" / "workspace", prepared)
    shutil.copy(workspace / "studies" / "tiny.yaml", scratch / "studies" / "tiny.yaml")
    from_scratch = call(scratch, *SNAKEMAKE, store=str(tmp_path / "scratch-store"))
    assert from_scratch.returncode == 0, from_scratch.stderr
    wanted, found = everything(scratch), everything(workspace)
    assert [path for path, content in wanted.items() if found.get(path) != content] == [], SEED
    runs = {run.name for run in study.load(workspace, "tiny").runs.values()}
    assert [path for path in found.keys() - wanted.keys() if any(f"/{run}/" in path for run in runs)] == [], SEED
    again = call(workspace, *SNAKEMAKE)
    assert "Nothing to be done" in again.stderr


def everything(workspace: Path) -> dict[str, bytes]:
    """Every promised file, hidden ones too, by path: results, checkpoints and reports.

    The page of timings differs each time, and so does its record, which has the digest of what it was made from.
    """
    report = {str(path.relative_to(workspace)): path for path in (workspace / "reports" / "tiny").rglob("*")}
    return bits(workspace) | {
        name: path.read_bytes()
        for name, path in report.items()
        if path.is_file() and not path.name.startswith("timing.")
    }
