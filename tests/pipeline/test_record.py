"""What is recorded in DVC is what the plan has, down to the weights that a run was made from."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from coopnet import files, study
from coopnet.commands import record
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

PARENT, CHILD = "dvc/full/one3/dvc.yaml:train@seed0", "dvc/full/one3_continued/dvc.yaml:train@seed0"


@pytest.fixture(scope="module")
def plan() -> Study:
    """The full study."""
    return study.load(ROOT)


@pytest.fixture
def workspace(tmp_path: Path, plan: Study) -> Workspace:
    """A parent and its child, as they were made."""
    made = Workspace(tmp_path)
    lay(made, plan, plan.run("one3", 0), "weights")
    lay(made, plan, plan.run("one3_continued", 0), "others")
    return made


def lay(workspace: Workspace, plan: Study, run: Run, weights: str) -> None:
    """Put files of a run in their places, with a record that is true of them."""
    wanted = targets(workspace, plan, run)
    for name, path in wanted.items():
        content = {"model.safetensors": weights, "timing.csv": "\n"}.get(name, name)
        files.write_text(path, content)
    listed = {name: files.sha256(path) for name, path in wanted.items() if "json" not in name and name != "timing.csv"}
    parents = [
        {"key": parent.key, "digest": files.sha256(targets(workspace, plan, parent)["model.safetensors"])}
        for parent in run.parents
    ]
    for name in ("run.json", "model.json"):
        files.write_json(wanted[name], {"key": run.key, "files": listed, "parents": parents})


def sort(workspace: Workspace, plan: Study) -> tuple[set[str], list[str]]:
    """Which stages are recorded, and what is refused."""
    return record._sort(workspace, plan, Digests())


def test_runs_as_planned_are_recorded(workspace: Workspace, plan: Study) -> None:
    """Both, and nothing that is not there."""
    assert sort(workspace, plan) == ({PARENT, CHILD}, [])


def test_child_of_other_weights_is_refused(workspace: Workspace, plan: Study) -> None:
    """The parent's key is right, and its files are those of its record; but the child was made from others."""
    lay(workspace, plan, plan.run("one3", 0), "of another machine")
    sound, refused = sort(workspace, plan)
    assert sound == {PARENT}
    assert refused == ["one3_continued/seed0 was made from other weights of one3/seed0 than lie here"]


def test_damaged_parent_is_refused_and_its_child_left_out(workspace: Workspace, plan: Study) -> None:
    """DVC would save the digest of what lies there for what the child was made from."""
    path = targets(workspace, plan, plan.run("one3", 0))["history.csv"]
    path.write_text("edited")
    sound, refused = sort(workspace, plan)
    assert sound == set()
    assert len(refused) == 1
    assert str(path) in refused[0]


def test_stages_are_named_by_file_where_all_of_it_is_recorded(plan: Study) -> None:
    """DVC looks at every target by itself, so there should be few."""
    everything = set(record._addresses(plan))
    names = record._shortest(plan, everything)
    assert len(names) == len(plan.experiments) + len(("tables", "claims", "report", "timing"))
    some = record._shortest(plan, everything - {PARENT})
    assert "dvc/full/one3/dvc.yaml" not in some
    assert PARENT.replace("seed0", "seed1") in some
    assert PARENT not in some


@pytest.mark.parametrize("there", [(), (".dvc",)])
def test_folder_without_dvc_or_git_is_refused(tmp_path: Path, there: tuple[str, ...]) -> None:
    """In one line, with the command that makes it one."""
    for name in there:
        (tmp_path / name).mkdir()
    with pytest.raises(CoopNetError, match="`git init`" if there else "`dvc init`"):
        record.record(Workspace(tmp_path), "full")


def test_restoring_without_a_remote_says_how_to_name_one(tmp_path: Path) -> None:
    """Before anything else is looked at."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    with pytest.raises(CoopNetError, match="dvc remote add --default NAME FOLDER_OR_URL"):
        record.restore(Workspace(tmp_path), "full")
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "here", "/tmp"], cwd=tmp_path, check=True)
    with pytest.raises(CoopNetError, match=r"cannot read .*params\.yaml"):
        record.restore(Workspace(tmp_path), "full")
