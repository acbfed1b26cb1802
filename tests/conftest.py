"""Shared by all tests: one thread, a separate run store, and the real data if available."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each would be very slow on two cores

ROOT = Path(__file__).parent.parent


def flip(path: Path) -> None:
    """Change the lowest bit of a file's last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts from an empty run store."""
    monkeypatch.setenv("COOPNET_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, prepared once."""
    folder = tmp_path_factory.mktemp("prepared")
    command = Path(sys.executable).parent / "coopnet"
    subprocess.run([command, "prepare", "digits", "--out", folder / "digits"], check=True)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, prepared: Path) -> Path:
    """A fresh workspace with the tiny study and an empty store."""
    from tiny_fixture import make_workspace

    return make_workspace(tmp_path / "workspace", prepared)
