"""No command imports a library that it does not need: together they take longer than most commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_fixture import make_workspace

HEAVY = {
    *("matplotlib", "numpy", "pandas", "PIL", "pyarrow", "scipy", "scipy.stats", "seaborn", "sklearn"),
    *("torch", "torchvision", "typst"),
}


def loaded(folder: Path, module: str, *arguments: str) -> set[str]:
    """The heavy libraries that a command has imported when it ends, with success or an error."""
    code = f"import sys; from {module} import main\ntry: main()\nfinally: print('loaded:', *{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)
    _, said, names = done.stdout.rpartition("loaded:")
    assert said, done.stderr
    return set(names.split())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A workspace without results: a command has imported what it needs when it notices that."""
    return make_workspace(tmp_path_factory.mktemp("imports") / "workspace", prepared)


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("--version", ""),
        ("runs tiny", ""),
        ("runs tiny --watch", ""),
        ("plan tiny", ""),
        ("record tiny --if-possible", ""),
        ("evaluate tiny one3 0", "numpy scipy"),
        ("claims tiny", "numpy scipy"),
        ("tables tiny", "numpy scipy"),
        ("report tiny", "matplotlib numpy pandas PIL pyarrow scipy scipy.stats seaborn typst"),
        ("timing tiny", "numpy pandas pyarrow"),
        ("prepare digits --out digits", "numpy pandas PIL pyarrow scipy scipy.stats sklearn"),
        ("prepare cifar100 --source parquet --root nowhere", "numpy PIL pyarrow"),
    ],
)
def test_command_loads_what_it_needs(workspace: Path, command: str, needed: str) -> None:
    """Commands without training do not import torch, and commands without figures no plotting libraries."""
    assert loaded(workspace, "coopnet.cli", *command.split()) - set(needed.split()) == set()


def test_refused_training_loads_nothing(workspace: Path) -> None:
    """A missing parent is reported at once."""
    assert loaded(workspace, "coopnet.cli", "train", "tiny", "one3_to_5_split", "0") == set()


def test_workflow_is_read_without_heavy_libraries(workspace: Path) -> None:
    """Every cluster job of Snakemake reads the workflow again."""
    own = loaded(workspace, "snakemake.cli", "--version")
    assert loaded(workspace, "snakemake.cli", "--dry-run", "--quiet", "all", "--config", "study=tiny") == own


def test_training_loads_what_it_needs() -> None:
    """A run reads prepared arrays without Parquet, and only a matched merge needs SciPy."""
    idle = HEAVY - {"numpy", "torch"}
    code = f"import sys, coopnet.data.canonical, coopnet.runs.job; print(*{idle} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
