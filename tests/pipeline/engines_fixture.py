"""A project of four short runs in a git repository of its own, for both engines to work on.

`coopnet` trains in a process of its own here, as a user has it; how often is counted in the journal that the training
code keeps in the run store.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from coopnet import files, study
from coopnet.study.phases import TRAINING
from coopnet.study.settings import Experiment

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

NAME = "tiny"
PARTS = (
    "Snakefile",
    "dvc.yaml",
    "workflow",
    "profiles",
    "src",
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
)

GRANDCHILD = {
    "about": "one3_to_5_split trained on",
    "parents": ["one3_to_5_split"],
    "model": {"branches": 5},
    "start": {"kind": "continue"},
    "training": {"epochs": 100, "optimizer": {"lr": 0.01}, "distillation": {"rampup": 0}},
}
"""A third generation, which an engine can forget when its second one is made again."""

WIDE = {"model": {"width": 20}}  # checkpoints over 1 MB, where both engines' shortcuts for small files end

TINY: dict[str, Any] = {
    "title": "Tiny",
    "device": "cpu",
    "threads": 1,
    "seeds": [0],
    "time_scale": 0.004,
    "only": ["baseline", "one3", "one3_to_5_split", "one3_to_5_split_continued"],
    "every_experiment": {
        "data": {"dataset": "digits", "training_subset": 100},
        "model": {"depth": 8, "width": 4},
        "training": {"batch_size": 50, "precision": "fp32"},
    },
    "experiments": {"one3": WIDE, "one3_to_5_split": WIDE, "one3_to_5_split_continued": WIDE},
}

EVERYTHING = ["baseline/seed0", "one3/seed0", "one3_to_5_split/seed0", "one3_to_5_split_continued/seed0"]
GROWN = EVERYTHING[2:]
"""`one3_to_5_split` and what descends from it."""

ENGINES = ("snakemake", "dvc")
TARGET = f"studies/dvc.yaml:report@{NAME}"

OWN_WORDS = {
    **{f"GIT_{who}_{what}": "tests@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "OMP_NUM_THREADS": "1",
    "COOPNET_SAVE_SECONDS": "0",  # every epoch is on disk before the next begins
}


def other(engine: str) -> str:
    """The engine that is not this one."""
    return ENGINES[1 - ENGINES.index(engine)]


def ordinary_user() -> list[str]:
    """How root becomes an ordinary user: nobody's files, no power over anyone's.

    Where this Python lies in root's home, that user may read there, and nothing more.
    """
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    start = ["sh", "-c", '"$0" -c ""', sys.executable]  # in a shell, which has given up root's powers by then
    if subprocess.run([*become, *start], capture_output=True).returncode:
        become += [f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return become


USERS = {"oneself": [], **({"nobody": ordinary_user()} if os.getuid() == 0 and shutil.which("setpriv") else {})}
"""Who runs the engines, and the command that it takes to be that user."""


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code, and all that it said."""

    code: int
    said: str


@dataclass
class Project:
    """A checkout with the study `tiny`, its own run store, and a home for whoever works on it.

    Attributes:
        root: the checkout.
        user: whose processes work on it, of `USERS`.
        read: lines of the journal that `trained` has told of.
    """

    root: Path
    user: str = "oneself"
    read: int = field(default=0)

    @property
    def overlay(self) -> Path:
        """The study."""
        return self.root / "studies" / f"{NAME}.yaml"

    @property
    def store(self) -> Path:
        """Its run store, where it lies by default."""
        return self.root / ".dvc" / "cache" / "coopnet-runs"

    # Making, copying, cloning

    def copy(self, folder: Path, user: str | None = None) -> "Project":
        """The same project elsewhere, with all dates of its files, and all of it for `user`."""
        folder.mkdir(parents=True)
        subprocess.run(["cp", "--reflink=auto", "-a", f"{self.root}/.", folder], check=True)
        own(folder.parent, user or self.user)
        return Project(folder, user or self.user, self.read)

    def clone(self, folder: Path) -> "Project":
        """What git has of the project, in a folder that the user may write."""
        self.run("git", "clone", "-q", self.root, folder)
        return Project(folder, self.user)

    def commit(self) -> None:
        """Commit whatever is there."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "as it is")

    def edit(self, changes: Mapping[str, Any]) -> str:
        """Lay values over the study; give its text as it was before, for `revert`."""
        before = self.overlay.read_text()
        self.overlay.write_text(yaml.safe_dump(study.merge(yaml.safe_load(before), changes)))
        return before

    def revert(self, before: str) -> None:
        """Take an edit of the study back."""
        self.overlay.write_text(before)

    # Commands

    def command(self, *arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
        """A command of the environment or of the system as the user starts it, and its environment."""
        name = BIN / arguments[0]
        home = self.root.parent / "home"
        if not home.is_dir():
            home.mkdir()
            own(home, self.user)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("COOPNET_", "DVC_"))}
        environment |= OWN_WORDS | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            **{name: str(home) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")},
            "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        }
        return [*USERS[self.user], name if name.exists() else arguments[0], *arguments[1:]], environment

    def run(self, *arguments: str | Path, fails: bool = False) -> Done:
        """Run a command to its end; it has to fail exactly if it `fails`."""
        command, environment = self.command(*arguments)
        done = subprocess.run(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert (done.returncode != 0) == fails, f"{' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}"
        return Done(done.returncode, done.stdout)

    @contextlib.contextmanager
    def start(self, *arguments: str | Path) -> Iterator["Started"]:
        """Start a command in a process group of its own, which is gone afterwards."""
        command, environment = self.command(*arguments)
        with (self.root.parent / f"{arguments[0]}.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            started = Started(process, Path(log.name))
            try:
                yield started
            finally:
                started.kill_all()

    def coopnet(self, *arguments: str, fails: bool = False) -> Done:
        """A command of this package."""
        return self.run("coopnet", *arguments, fails=fails)

    def snakemake(self, *arguments: str, cores: int = 2, fails: bool = False) -> Done:
        """Make the study with Snakemake."""
        return self.run(*snakemake(*arguments, cores=cores), fails=fails)

    def dvc(self, *arguments: str, fails: bool = False) -> Done:
        """DVC."""
        return self.run("dvc", *arguments, fails=fails)

    def make(self, engine: str, *, fails: bool = False) -> Done:
        """Make the study with an engine."""
        return self.run(*MAKE[engine], fails=fails)

    # What happened

    def events(self) -> list[dict[str, Any]]:
        """All lines of the journal."""
        journal = self.store / "journal.jsonl"
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def trained(self) -> list[str]:
        """Runs whose training was begun or gone on with since this was last asked, each as often as that happened."""
        events, self.read = self.events()[self.read :], len(self.events())
        return sorted(
            event["run"].removeprefix(f"{NAME}/") for event in events if event["event"] in ("trained", "resumed")
        )

    def event(self, kind: str, run: str) -> dict[str, Any] | None:
        """The last event of a kind that the journal has of a run and `trained` has not told of."""
        new = self.events()[self.read :]
        found = [event for event in new if (event["event"], event["run"]) == (kind, f"{NAME}/{run}")]
        return found[-1] if found else None

    def saved(self, run: str) -> int | None:
        """The process that trains a run, as soon as it has saved an epoch of it."""
        begun = self.event("trained", run)
        if begun and list((self.store / "unfinished" / begun["key"]).glob("*/state.json")):
            return int(begun["pid"])
        return None

    def status(self, *stages: str) -> str:
        """What DVC says of the phases of runs such as `one3/seed0`, of `tables`, or of the whole study without any."""
        return self.dvc("status", *map(self.address, stages) if stages else ("--with-deps", TARGET)).said

    def address(self, stage: str) -> str:
        """How DVC calls the phase that makes a run, or a phase of the whole study."""
        phases = {run.name: run.phase for run in study.load(self.root, NAME).everything()}
        return f"studies/dvc.yaml:{phases.get(stage, stage)}@{NAME}"

    def assert_clean(self) -> None:
        """Both engines find nothing to do, and all that DVC has recorded is true."""
        status = self.status()
        assert "up to date" in status, status
        planned = self.snakemake("-n").said
        assert "Nothing to be done" in planned, planned
        plan = study.load(self.root, NAME)
        assert self.recorded() == sorted(run.name for run in plan.everything())

    def recorded(self) -> list[str]:
        """The runs that DVC has recorded, after a look at each: it was made with these very parameters.

        DVC's lock names the folder of a phase by its digest, the folder's list in the cache names each file by its own,
        and what a run was made with its record says.
        """
        lock = yaml.safe_load((self.root / "studies" / "dvc.lock").read_text())["stages"]
        runs = {run.name: run for run in study.load(self.root, NAME).everything()}
        names = []
        for phase in TRAINING:
            stage = lock.get(f"{phase}@{NAME}")
            if stage is None:
                continue
            (folder,) = stage["outs"]
            assert folder["path"] == f"checkpoints/{NAME}/{phase}"
            members = {one["relpath"]: one["md5"] for one in json.loads(self.cached(folder["md5"]).read_text())}
            for path in sorted(path for path in members if path.endswith("/run.json")):
                name = path.removesuffix("/run.json") + " at transfer" * (phase in ("transfer", "expand"))
                if name in runs:  # else of a row that was there before
                    self.check_record(phase, path.removesuffix("/run.json"), self.parameters(stage), members)
                    names.append(name)
        return sorted(names)

    def parameters(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """What DVC's lock says that a phase was made with: the overlay's values, and `params.yaml` by its digest."""
        path = self.root / "params.yaml"
        (digest,) = (one["md5"] for one in stage["deps"] if one["path"] == path.name)
        assert hashlib.md5(path.read_bytes()).hexdigest() == digest, path
        return {path.name: yaml.safe_load(path.read_text()), **stage["params"]}

    def check_record(self, phase: str, run: str, parameters: Mapping[str, Any], members: Mapping[str, str]) -> None:
        """Compare what DVC has recorded of a run with what the run says itself."""
        experiment, _, seed = run.partition("/")
        record = files.read_sealed(self.cached(members[f"{run}/run.json"]))
        row = row_of(parameters, experiment)
        at_transfer = phase in ("transfer", "expand")
        if at_transfer:  # its training is its run's, not its own
            assert {key: value for key, value in row.items() if key not in ("training", "start")} == {
                key: value for key, value in record["row"].items() if key not in ("training", "start")
            }, run
        else:
            assert row == record["row"], run
        assert threads_of(parameters) == record["threads"], run
        assert seed == f"seed{record['seed']}", run
        for name in ("model.safetensors", "optimizer.safetensors", "logits.safetensors"):
            assert files.sha256(self.cached(members[f"{run}/{name}"])) == record["files"][name], (run, name)

    def cached(self, digest: str) -> Path:
        """A file in DVC's cache, by its digest."""
        return self.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]

    def results(self) -> dict[str, bytes]:
        """Every file whose content is promised, by its path: all results and reports but wall-clock figures."""
        found = [path for folder in ("results", "reports") for path in (self.root / folder / NAME).rglob("*")]
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in found
            if path.is_file() and not path.name.startswith("timing.")
        }


class Watched:
    """A command on its way, and what it said so far."""

    process: subprocess.Popen[Any]
    said: Any

    def wait_for(self, happened: Callable[[], Any], seconds: float = 300) -> Any:
        """Wait until something is so, and give it, whatever it is; the command must not end before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = happened()
            if found:
                return found
            assert self.process.poll() is None, self.said
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {self.said}")


@dataclass(frozen=True)
class Started(Watched):
    """A command on its way."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """What it said so far."""
        return self.log.read_text()

    def end(self) -> Done:
        """Wait for its end."""
        return Done(self.process.wait(timeout=600), self.said)

    def kill_all(self) -> None:
        """SIGKILL to it and to all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def snakemake(*arguments: str, cores: int = 2) -> Sequence[str]:
    """The command that makes the study with Snakemake."""
    return ("snakemake", "--cores", str(cores), *arguments, "--config", f"study={NAME}")


MAKE = {"snakemake": snakemake(), "dvc": ("dvc", "repro", TARGET)}


def fresh(folder: Path) -> Project:
    """A project with its data prepared, in which nothing was trained yet."""
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    project = Project(folder)
    project.overlay.parent.mkdir()
    for path, content in {**smaller(), f"studies/{NAME}.yaml": TINY}.items():
        (folder / path).write_text(yaml.safe_dump(content, sort_keys=False))
    stages = (ROOT / "studies" / "dvc.yaml").read_text()
    listed = re.sub(r"studies: \[.*\]", f"studies: [{NAME}]", stages)
    assert listed != stages
    (folder / "studies" / "dvc.yaml").write_text(listed)
    project.run("git", "init", "-q", "-b", "main", ".")
    project.coopnet("prepare", "digits")
    project.commit()
    return project


def smaller() -> dict[str, Any]:
    """Parameters, claims and figures of the project as far as they are about the rows of `tiny`.

    DVC reads `params.yaml` anew for each stage, and all stages of all studies whichever it is asked for.
    """
    parameters, claims, figures = (
        study.read_yaml(ROOT / name) for name in ("params.yaml", "claims.yaml", "figures.yaml")
    )
    rows = parameters["experiments"]
    kept = {name: rows.pop(name, GRANDCHILD) for name in TINY["only"]}

    def said_of_others(content: Any) -> bool:
        return not rows.keys().isdisjoint(re.findall(r"\w+", json.dumps(content)))

    for source in figures.values():
        source["figures"] = {name: one for name, one in source["figures"].items() if not said_of_others(one)}
    return {
        "params.yaml": parameters | {"seeds": [0], "experiments": kept},
        "claims.yaml": {name: claim for name, claim in claims.items() if not said_of_others(claim)},
        "figures.yaml": {name: source for name, source in figures.items() if source["figures"]},
    }


def own(folder: Path, user: str) -> None:
    """Make a folder and all in it a user's."""
    if USERS[user]:
        subprocess.run(["chown", "-R", "65534:65534", folder], check=True)


def row_of(parameters: Mapping[str, Any], experiment: str) -> dict[str, Any]:
    """The row that DVC's lock says a run was made with, filled in as the study does."""
    general, own = parameters["params.yaml"], parameters[f"studies/{NAME}.yaml"]
    row = study.merge(general["defaults"], general["experiments"][experiment])
    row = study.merge(row, own["every_experiment"])
    row = study.merge(row, own["experiments"].get(experiment, {}))
    content = study.scale(study.check(Experiment, row, "dvc.lock"), own["time_scale"]).decisive()
    return dict(json.loads(json.dumps(content)))


def threads_of(parameters: Mapping[str, Any]) -> int:
    """The threads that DVC's lock says a run was made with."""
    return int(parameters[f"studies/{NAME}.yaml"].get("threads", parameters["params.yaml"]["threads"]))
