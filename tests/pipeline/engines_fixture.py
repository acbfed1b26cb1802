"""A project of four short runs in its own git repository, on which both engines work.

`coopnet` trains in a separate process here, as for a user; trainings are counted in the journal that the training code
keeps in the run store.
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

import tiny_fixture
from coopnet import files, study
from coopnet.study import Run
from coopnet.study.phases import TRAINING
from coopnet.study.settings import Experiment

ROOT = Path(__file__).parents[2]
BIN = tiny_fixture.BIN

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
"""A third generation, which an engine could forget when the second one is made again."""

WIDE = {"model": {"width": 20}}  # checkpoints over 1 MB, where both engines' shortcuts for small files end

TINY: dict[str, Any] = tiny_fixture.TINY | {
    "time_scale": 0.004,
    "only": ["baseline", "one3", "one3_to_5_split", "one3_to_5_split_continued"],
    "every_experiment": tiny_fixture.TINY["every_experiment"] | {"data": {"dataset": "digits", "training_subset": 100}},
    "experiments": {"one3": WIDE, "one3_to_5_split": WIDE, "one3_to_5_split_continued": WIDE},
}
"""The study of the other tests, shorter, and with larger checkpoints."""

EVERYTHING = ["baseline/seed0", "one3/seed0", "one3_to_5_split/seed0", "one3_to_5_split_continued/seed0"]
GROWN = EVERYTHING[2:]
"""`one3_to_5_split` and its descendants."""

ENGINES = ("snakemake", "dvc")
TARGET = f"studies/dvc.yaml:report@{NAME}"

OWN_WORDS = {
    **{f"GIT_{who}_{what}": "tests@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "OMP_NUM_THREADS": "1",
    "COOPNET_SAVE_SECONDS": "0",  # every epoch is on disk before the next begins
}


def other(engine: str) -> str:
    """The other engine."""
    return ENGINES[1 - ENGINES.index(engine)]


def ordinary_user() -> list[str]:
    """The command prefix that turns root into an ordinary user, without special rights on anybody's files.

    If this Python is in root's home, that user may read there, and nothing more.
    """
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    start = ["sh", "-c", '"$0" -c ""', sys.executable]  # in a shell, which has given up root's powers by then
    if subprocess.run([*become, *start], capture_output=True).returncode:
        become += [f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return become


USERS = {"oneself": [], **({"nobody": ordinary_user()} if os.getuid() == 0 and shutil.which("setpriv") else {})}
"""The users that run the engines, and the command prefix for each."""


@dataclass(frozen=True)
class Done:
    """A finished command: its exit code, and its output."""

    code: int
    said: str

    @property
    def stages(self) -> list[str]:
        """The stages that DVC has run, by their phase."""
        return re.findall(r"^Running stage '(?:\S+:)?(\w+)@", self.said, re.MULTILINE)


@dataclass
class Project:
    """A checkout with the study `tiny`, its own run store, and a home for its user.

    Attributes:
        root: the checkout.
        user: the user of its processes, one of `USERS`.
        read: number of journal lines that `trained` has already reported.
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
        """Its run store, in the default folder."""
        return self.root / ".dvc" / "cache" / "coopnet-runs"

    # Making, copying, cloning

    def copy(self, folder: Path, user: str | None = None) -> "Project":
        """A copy of the project elsewhere, with all file dates, owned by `user`."""
        folder.mkdir(parents=True)
        subprocess.run(["cp", "--reflink=auto", "-a", f"{self.root}/.", folder], check=True)
        own(folder.parent, user or self.user)
        return Project(folder, user or self.user, self.read)

    def clone(self, folder: Path) -> "Project":
        """A git clone of the project, in a folder that the user may write."""
        self.run("git", "clone", "-q", self.root, folder)
        return Project(folder, self.user)

    def commit(self) -> None:
        """Commit all files."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "as it is")

    def edit(self, changes: Mapping[str, Any]) -> str:
        """Merge values into the study; return its old text, for `revert`."""
        before = self.overlay.read_text()
        self.overlay.write_text(yaml.safe_dump(study.merge(yaml.safe_load(before), changes)))
        return before

    def revert(self, before: str) -> None:
        """Undo an edit of the study."""
        self.overlay.write_text(before)

    # Commands

    def command(self, *arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
        """The command line with which the user starts a command, and its environment."""
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
        """Run a command to its end; it must fail exactly if `fails` is set."""
        command, environment = self.command(*arguments)
        done = subprocess.run(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert (done.returncode != 0) == fails, f"{' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}"
        return Done(done.returncode, done.stdout)

    @contextlib.contextmanager
    def start(self, *arguments: str | Path) -> Iterator["Started"]:
        """Start a command in its own process group, which is killed afterwards."""
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
        """Run a command of this package."""
        return self.run("coopnet", *arguments, fails=fails)

    def snakemake(self, *arguments: str, cores: int = 2, fails: bool = False) -> Done:
        """Make the study with Snakemake."""
        return self.run(*snakemake(*arguments, cores=cores), fails=fails)

    def dvc(self, *arguments: str, fails: bool = False) -> Done:
        """Run DVC."""
        return self.run("dvc", *arguments, fails=fails)

    def make(self, engine: str, *, fails: bool = False) -> Done:
        """Make the study with an engine."""
        return self.run(*MAKE[engine], fails=fails)

    # Events

    def events(self) -> list[dict[str, Any]]:
        """All lines of the journal."""
        journal = self.store / "journal.jsonl"
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def trained(self) -> list[str]:
        """Runs whose training was started or resumed since the last call, each as often as that happened."""
        events, self.read = self.events()[self.read :], len(self.events())
        return sorted(
            event["run"].removeprefix(f"{NAME}/") for event in events if event["event"] in ("trained", "resumed")
        )

    def event(self, kind: str, run: str) -> dict[str, Any] | None:
        """The last event of this kind and run in the journal that `trained` has not reported yet."""
        new = self.events()[self.read :]
        found = [event for event in new if (event["event"], event["run"]) == (kind, f"{NAME}/{run}")]
        return found[-1] if found else None

    def saved(self, run: str) -> int | None:
        """The process that trains a run, once it has saved an epoch of it."""
        begun = self.event("trained", run)
        if begun and list((self.store / "unfinished" / begun["key"]).glob("*/state.json")):
            return int(begun["pid"])
        return None

    def status(self, *stages: str) -> str:
        """The output of `dvc status` for the phases of runs such as `one3/seed0`, for `tables`, or for everything."""
        return self.dvc("status", *map(self.address, stages) if stages else ("--with-deps", TARGET)).said

    def address(self, stage: str) -> str:
        """DVC's name of the phase that makes a run, or of a phase of the whole study."""
        phases = {run.name: run.phase for run in study.load(self.root, NAME).everything()}
        return f"studies/dvc.yaml:{phases.get(stage, stage)}@{NAME}"

    def assert_clean(self) -> None:
        """Both engines find nothing to do, and everything that DVC has recorded is correct."""
        status = self.status()
        assert "up to date" in status, status
        dry = self.snakemake("-n").said
        assert "Nothing to be done" in dry, dry
        plan = study.load(self.root, NAME)
        assert self.recorded() == sorted(run.name for run in plan.everything())
        planned = self.planned()
        self.coopnet("plan", NAME, "--write")
        assert self.planned() == planned

    def planned(self) -> dict[str, bytes]:
        """The files that say what decides each phase."""
        return {path.name: path.read_bytes() for path in (self.root / "checkpoints" / NAME / "plan").iterdir()}

    def recorded(self) -> list[str]:
        """The runs that DVC has recorded, after a check that each is the one that DVC's lock names.

        DVC's lock has, of each phase, the digest of the file with the keys of its runs, and that of its folder. The
        folder's list in the cache has the digest of each file, and a run's record has its key and settings. Where the
        keys are those of the recorded plan, the settings are compared with the parameters from which that was made.
        """
        lock = yaml.safe_load((self.root / "studies" / "dvc.lock").read_text())["stages"]
        plan = study.load(self.root, NAME)
        names = []
        for phase in TRAINING:
            stage = lock.get(f"{phase}@{NAME}")
            if stage is None:
                continue
            (folder,) = stage["outs"]
            assert folder["path"] == f"checkpoints/{NAME}/{phase}"
            members = self.members(folder["md5"])
            file = f"checkpoints/{NAME}/plan/{phase}.json"
            (planned,) = (one["md5"] for one in stage["deps"] if one["path"] == file)
            keys = json.loads(self.cached(planned).read_text())["runs"]
            for run in plan.of_phase(phase):
                if f"{run.experiment}/seed{run.seed}/run.json" in members:
                    self.check_record(run, keys, members, self.parameters(lock, phase, planned))
                    names.append(run.name)
        return sorted(names)

    def members(self, digest: str) -> dict[str, str]:
        """The digest of each file of a folder in DVC's cache."""
        return {one["relpath"]: one["md5"] for one in json.loads(self.cached(digest).read_text())}

    def parameters(self, lock: Mapping[str, Any], phase: str, planned: str) -> dict[str, Any] | None:
        """The parameters from which the recorded plan was made: the overlay's values, and `params.yaml` by its digest.

        None if this phase was recorded for an earlier plan, or `params.yaml` is another one now.
        """
        stage = lock[f"plan@{NAME}"]
        path = self.root / "params.yaml"
        (digest,) = (one["md5"] for one in stage["deps"] if one["path"] == path.name)
        same = self.members(stage["outs"][0]["md5"])[f"{phase}.json"] == planned
        if not same or hashlib.md5(path.read_bytes()).hexdigest() != digest:
            return None
        return {path.name: yaml.safe_load(path.read_text()), **stage["params"]}

    def check_record(
        self, run: Run, keys: Mapping[str, str], members: Mapping[str, str], parameters: Mapping[str, Any] | None
    ) -> None:
        """Compare DVC's record of a run with the run's own record."""
        folder = f"{run.experiment}/seed{run.seed}"
        record = files.read_sealed(self.cached(members[f"{folder}/run.json"]))
        assert record["key"] == keys[run.name], run.name
        if parameters is not None:
            row, made = row_of(parameters, run.experiment), record["row"]
            if run.at_transfer:  # it has the training settings of its run
                row, made = ({key: one[key] for key in one if key not in ("training", "start")} for one in (row, made))
            assert row == made, run.name
            assert threads_of(parameters) == record["threads"], run.name
        assert record["seed"] == run.seed, run.name
        for name in ("model.safetensors", "optimizer.safetensors", "logits.safetensors"):
            assert files.sha256(self.cached(members[f"{folder}/{name}"])) == record["files"][name], (run.name, name)

    def cached(self, digest: str) -> Path:
        """A file in DVC's cache, by its digest."""
        return self.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]

    def results(self) -> dict[str, bytes]:
        """Every file whose content is promised, by its path: all results and reports except timings."""
        found = [path for folder in ("results", "reports") for path in (self.root / folder / NAME).rglob("*")]
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in found
            if path.is_file() and not path.name.startswith("timing.")
        }


class Watched:
    """A running command, and its output so far."""

    process: subprocess.Popen[Any]
    said: Any

    def wait_for(self, happened: Callable[[], Any], seconds: float = 300) -> Any:
        """Wait for a true value and return it; the command must not end before."""
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
    """A running command."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text()

    def end(self) -> Done:
        """Wait for its end."""
        return Done(self.process.wait(timeout=600), self.said)

    def kill_all(self) -> None:
        """Send SIGKILL to it and to all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def snakemake(*arguments: str, cores: int = 2) -> Sequence[str]:
    """The command that makes the study with Snakemake."""
    return ("snakemake", "--cores", str(cores), *arguments, "--config", f"study={NAME}")


MAKE = {"snakemake": snakemake(), "dvc": ("dvc", "repro", TARGET)}


def fresh(folder: Path) -> Project:
    """A project with prepared data and without any training."""
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
    """Parameters, claims and figures of the project, limited to the rows of `tiny`.

    DVC reads `params.yaml` again for each stage, and all stages of all studies in any case.
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
    """Give a folder and its content to a user."""
    if USERS[user]:
        subprocess.run(["chown", "-R", "65534:65534", folder], check=True)


def row_of(parameters: Mapping[str, Any], experiment: str) -> dict[str, Any]:
    """The row in DVC's lock with which a run was made, filled in as in the study."""
    general, own = parameters["params.yaml"], parameters[f"studies/{NAME}.yaml"]
    row = study.merge(general["defaults"], general["experiments"][experiment])
    row = study.merge(row, own["every_experiment"])
    row = study.merge(row, own["experiments"].get(experiment, {}))
    content = study.scale(study.check(Experiment, row, "dvc.lock"), own["time_scale"]).decisive()
    return dict(json.loads(json.dumps(content)))


def threads_of(parameters: Mapping[str, Any]) -> int:
    """The number of threads in DVC's lock with which a run was made."""
    return int(parameters[f"studies/{NAME}.yaml"].get("threads", parameters["params.yaml"]["threads"]))
