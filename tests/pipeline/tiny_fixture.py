"""A study of a few seconds, workspaces for it, and commands in this process and in others."""

import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from conftest import ROOT
from coopnet.commands import train as train_command
from coopnet.commands import transfer as transfer_command
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace

BIN = Path(sys.executable).parent

TINY: dict[str, Any] = {
    "title": "Tiny",
    "device": "cpu",
    "threads": 1,
    "seeds": [0],
    "time_scale": 0.01,
    "only": ["one3", "one3_continued", "one3_to_5_masked", "one3_to_5_split"],
    "every_experiment": {
        "data": {"dataset": "digits", "training_subset": 200},
        "model": {"depth": 8, "width": 4},
        "training": {"batch_size": 50, "precision": "fp32"},
    },
}


def make_workspace(folder: Path, prepared: Path) -> Path:
    """A workspace with the project's parameters and workflow, and a tiny study beside the others."""
    folder.mkdir(parents=True)
    for name in ("params.yaml", "claims.yaml", "figures.yaml", "Snakefile", "studies", "workflow", "profiles"):
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    shutil.copytree(prepared, folder / "data" / "prepared")
    return folder


def call(workspace: Path, *arguments: str, store: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment in a workspace; `store` replaces the test's own store."""
    environment = os.environ | ({"COOPNET_STORE": store} if store else {})
    return subprocess.run(
        [BIN / arguments[0], *arguments[1:]], cwd=workspace, capture_output=True, text=True, env=environment
    )


def train(
    workspace: Path,
    experiment: str,
    *,
    key: str | None = None,
    max_minutes: float | None = None,
    of_transfer: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`coopnet train` or `transfer` of the tiny study, seed 0, in this process: torch takes seconds to import."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("coopnet").addHandler(handler)
    logging.getLogger("coopnet").setLevel(logging.INFO)
    try:
        if of_transfer:
            code = 0 if transfer_command.transfer(Workspace(workspace), "tiny", experiment, 0, key) else 1
        else:
            code = train_command.train(Workspace(workspace), "tiny", experiment, 0, key, max_minutes)
    except CoopNetError as error:
        code = 1
        said.write(f"{error}\n")
    finally:
        logging.getLogger("coopnet").removeHandler(handler)
    return subprocess.CompletedProcess([], code, "", said.getvalue())


def transfer(workspace: Path, experiment: str) -> subprocess.CompletedProcess[str]:
    """`coopnet transfer` of the tiny study, seed 0, in this process."""
    return train(workspace, experiment, of_transfer=True)


def bits(workspace: Path) -> dict[str, bytes]:
    """Every result file whose content is promised, by path."""
    found = [*(workspace / "results").rglob("*"), *(workspace / "checkpoints").rglob("*")]
    return {str(p.relative_to(workspace)): p.read_bytes() for p in found if p.is_file() and p.name != "timing.csv"}


def trained(result: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command really trained, according to its log."""
    return "epoch 1/" in result.stderr


def edit(workspace: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    """Change the tiny study."""
    path = workspace / "studies" / "tiny.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))
