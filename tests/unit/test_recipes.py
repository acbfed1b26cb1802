"""The recipes for a forge and a container use existing targets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def called(text: str) -> list[str]:
    """The targets of every call of make."""
    found = []
    for words in re.findall(r"\bmake ((?:[\w$={}-]+ ?)+)", text):
        found += [word for word in words.split() if "=" not in word]
    return found


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / "Containerfile"], ids=lambda path: path.name)
def test_targets_that_a_recipe_makes_exist(path: object) -> None:
    """Each `make TARGET` of a workflow, and of the container's recipe, is a target of the Makefile."""
    text = (ROOT / str(path)).read_text(encoding="utf-8")
    if str(path).endswith(".yml"):
        jobs = yaml.safe_load(text)["jobs"].values()
        text = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    targets = called(text)
    assert targets
    assert [one for one in targets if not re.search(rf"^{one}:", MAKEFILE, re.MULTILINE)] == []


def test_the_workflows_keep_what_they_make() -> None:
    """The paths of the demo's report and of the site agree with the workflows."""
    kept = [
        step["with"]["path"]
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
        if "path" in step.get("with", {})
    ]
    assert kept == ["reports/demo", "build/docs"]
    assert "-d build/doctrees docs build/docs" in MAKEFILE


def test_other_wheels_of_pytorch_replace_those_that_are_there(tmp_path: Path) -> None:
    """In an environment that is ready `make setup` does nothing, and `make setup TORCH=cu126` installs other wheels."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml", ".venv/ready"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "Makefile", tmp_path / name)

    def planned(*words: str) -> str:
        return subprocess.run(["make", "-n", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "Nothing to be done" in planned("setup")
    assert "--torch-backend cu126" in planned("setup", "TORCH=cu126")
    assert "--torch-backend" not in planned("test", "TORCH=cu126")


def test_other_wheels_of_pytorch_leave_the_rest_of_the_lock_as_it_is() -> None:
    """`make setup TORCH=cpu` removes PyTorch and its CUDA libraries from the lock, with their hashes, nothing else."""
    program = re.findall(r"awk '(.*)' requirements\.lock", MAKEFILE)[0]
    left = subprocess.run(
        ["awk", program, ROOT / "requirements.lock"], capture_output=True, text=True, check=True
    ).stdout

    def packages(text: str) -> dict[str, int]:
        """Package → its hashes."""
        parts = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
        return {part.partition("==")[0]: part.count("--hash=sha256:") for part in parts}

    whole = packages((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    gone = {name for name in whole if name not in packages(left)}
    assert {"torch", "torchvision", "triton"} <= gone
    assert all(re.match(r"(torch|torchvision|triton)$|cuda-|nvidia-", name) for name in gone)
    assert packages(left) == {name: hashes for name, hashes in whole.items() if name not in gone}


def test_no_recipe_names_a_registry() -> None:
    """Images have no host before their name, and no address of a package index is written down."""
    for path in (*WORKFLOWS, ROOT / "Containerfile"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert not re.search(r"^FROM \S+[.:]\S*/", text, re.MULTILINE)
