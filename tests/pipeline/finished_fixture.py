"""A finished study of two runs, made once by the real commands; tests damage it and fill disks with it."""

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import stamps
import test_lan2018 as published
from coopnet import study
from coopnet.commands import claims, evaluate, import_checkpoint, prepare, report, train, transfer
from coopnet.runs.stop import TIME_IS_UP
from coopnet.runs.store import VARIABLE, Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study
from engines_fixture import TINY, smaller

RUNS = ("one3", "one3_to_5_split")
STUDIES = {
    "tiny": TINY | {"only": list(RUNS), "experiments": {}},
    "other": TINY | {"only": ["one3"], "experiments": {}, "seeds": [1]},
    "unfinished": TINY | {"only": ["one3"], "experiments": {}, "seeds": [2, 3], "time_scale": 0.008},
}
"""The study that is damaged, one whose files replace its own, and one with unfinished runs."""


@dataclass(frozen=True)
class Home:
    """A workspace and its run store in one folder, and commands on them in this process."""

    root: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root / "workspace")

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def plan(self, name: str = "tiny") -> Study:
        return study.load(self.workspace.root, name)

    def run(self, experiment: str = "one3") -> Run:
        return self.plan().run(experiment, 0)

    def run_record(self) -> Path:
        """The record of a run."""
        return self.workspace.run(self.plan(), self.run()) / "run.json"

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Commands use the store of this folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, str(self.root / "store"))
            yield

    def copy(self, folder: Path) -> "Home":
        """A copy elsewhere, with all dates."""
        subprocess.run(["cp", "--reflink=auto", "-a", f"{self.root}/.", folder], check=True)
        return Home(folder)

    def prepare(self, dataset: str = "digits") -> None:
        prepare.prepare(self.workspace, dataset, None, None, None)

    def train(self, name: str = "tiny", experiment: str = "one3", seed: int = 0, minutes: float | None = None) -> int:
        with self.here():
            return train.train(self.workspace, name, experiment, seed, None, minutes)

    def transfer(self, name: str = "tiny", experiment: str = "one3_to_5_split", seed: int = 0) -> None:
        with self.here():
            transfer.transfer(self.workspace, name, experiment, seed, None)

    def evaluate(self, name: str = "tiny", experiment: str = "one3", seed: int = 0) -> None:
        evaluate.evaluate(self.workspace, name, experiment, seed)

    def evaluate_transfer(self) -> None:
        evaluate.evaluate(self.workspace, "tiny", "one3_to_5_split", 0, at_transfer=True)

    def tables(self, name: str = "tiny") -> None:
        report.tables(self.workspace, name)

    def claims(self, name: str = "tiny") -> None:
        claims.claims(self.workspace, name)

    def report(self, name: str = "tiny") -> None:
        report.report(self.workspace, name)

    def timing(self, name: str = "tiny") -> None:
        report.timing(self.workspace, name)

    def refresh(self, name: str = "tiny") -> None:
        """The first step of every start of the workflow."""
        stamps.refresh(self.workspace, self.plan(name))

    def files(self) -> dict[str, Path]:
        """Every file, by its relative path; files that are being written begin with a dot."""
        found = [path for path in self.root.rglob("*") if path.is_file() or path.is_symlink()]
        return {path.relative_to(self.root).as_posix(): path for path in sorted(found)}

    def promised(self, *folders: str) -> dict[str, bytes]:
        """The content of every result whose bits are promised."""
        places = folders or ("workspace/data", "workspace/checkpoints", "workspace/results", "workspace/reports")
        return {
            name: path.read_bytes()
            for name, path in self.files().items()
            if name.startswith(places) and not path.name.startswith("timing.")
        }


def planned(folder: Path) -> Home:
    """The parameters of the studies, without any results."""
    home = Home(folder)
    (home.workspace.root / "studies").mkdir(parents=True)
    overlays = {f"studies/{name}.yaml": content for name, content in STUDIES.items()}
    for path, content in {**smaller(), **overlays}.items():
        (home.workspace.root / path).write_text(yaml.safe_dump(content, sort_keys=False))
    return home


def make(home: Home, name: str, runs: Sequence[tuple[str, int]]) -> None:
    """Make everything before the report."""
    for experiment, seed in runs:
        if home.plan(name).run(experiment, seed).transfer:
            home.transfer(name, experiment, seed)
            evaluate.evaluate(home.workspace, name, experiment, seed, at_transfer=True)
        assert home.train(name, experiment, seed) == 0
        home.evaluate(name, experiment, seed)
    home.tables(name)
    home.claims(name)


@functools.cache
def foreign() -> Path:
    """A published checkpoint, untrained."""
    torch.manual_seed(0)
    source = Path(tempfile.mkdtemp()) / "net.pth.tar"
    atexit.register(shutil.rmtree, source.parent)
    model = published.Published(3)
    torch.save(published.checkpoint(model, published.trained(model)), source)
    return source


def bring_in(home: Home) -> None:
    """Import it."""
    import_checkpoint.import_checkpoint(foreign(), "lan2018", home.workspace.root / "imported" / "net")


def finished(folder: Path) -> Home:
    """Everything except the report, and two runs that were interrupted after their first epoch."""
    home = planned(folder)
    home.prepare()
    make(home, "tiny", [(experiment, 0) for experiment in RUNS])
    make(home, "other", [("one3", 1)])
    home.timing()
    for seed in (2, 3):
        for _ in range(3):
            assert home.train("unfinished", "one3", seed, 0) == TIME_IS_UP
    bring_in(home)
    home.refresh()
    return home


def made_once(factory: pytest.TempPathFactory) -> Home:
    """The finished study, for all tests of a session; tests use copies."""
    return _made(factory.getbasetemp() / "finished")


_made = functools.cache(finished)


def fill(folder: Path, leave: int) -> Path:
    """Write a file until `leave` bytes are left on the file system of a folder."""
    path = folder / "ballast"
    with path.open("ab") as ballast:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with contextlib.suppress(OSError):
            ballast.write(b"\0" * max(0, free - leave))
    return path


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A separate file system, if this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
