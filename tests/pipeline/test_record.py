"""Results recorded in DVC match the plan, including the weights from which a run was made."""

from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from coopnet import files, study
from coopnet.commands import record
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs import records, steps
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

ONLY = {"only": ["one3", "one3_continued"], "seeds": [0], "time_scale": 0.01}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a parent and its control."""
    root = tmp_path_factory.mktemp("plan")
    (root / "studies").mkdir()
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "studies" / "tiny.yaml").write_text(yaml.safe_dump(ONLY))
    return study.load(root, "tiny")


@pytest.fixture
def workspace(tmp_path: Path, plan: Study) -> Workspace:
    """A parent and its child with consistent records."""
    made = Workspace(tmp_path)
    lay(made, plan, plan.run("one3", 0), "weights")
    lay(made, plan, plan.run("one3_continued", 0), "others")
    return made


def lay(workspace: Workspace, plan: Study, run: Run, weights: str) -> None:
    """Write the files of a run, with a correct record."""
    wanted = targets(workspace, plan, run)
    for name, path in wanted.items():
        content = {"model.safetensors": weights, "timing.csv": "\n"}.get(name, name)
        files.write_text(path, content)
    listed = {name: files.sha256(path) for name, path in wanted.items() if "json" not in name and name != "timing.csv"}
    parents = [
        {"key": parent.key, "digest": files.sha256(targets(workspace, plan, parent)["model.safetensors"])}
        for parent in run.parents
    ]
    files.write_json(wanted["run.json"], files.sealed({"key": run.key, "files": listed, "parents": parents}))
    step = steps.evaluate(workspace, plan, run)
    with records.making(workspace, lambda: step):
        for path in step.outputs:
            files.write_text(path, "evaluated")


def sort(workspace: Workspace, plan: Study) -> tuple[set[str], list[str]]:
    """Which of the two phases with runs are recorded, and which runs are refused."""
    sound, refused = record._sort(workspace, plan, Digests())
    return {"train_one", "finetune"} & set(sound), refused


def test_runs_as_planned_are_recorded(workspace: Workspace, plan: Study) -> None:
    """Both phases are recorded, and nothing else."""
    assert sort(workspace, plan) == ({"train_one", "finetune"}, [])


def test_child_of_other_weights_is_refused(workspace: Workspace, plan: Study) -> None:
    """Key and files of the parent are correct, but the child was made from other weights."""
    lay(workspace, plan, plan.run("one3", 0), "of another machine")
    sound, refused = sort(workspace, plan)
    assert sound == {"train_one"}
    assert refused == ["one3_continued/seed0 was made from other weights of one3/seed0 than lie here"]


def test_damaged_run_is_refused_with_its_phase(workspace: Workspace, plan: Study) -> None:
    """DVC would save the digest of the damaged file; results made from the undamaged one are still valid."""
    path = targets(workspace, plan, plan.run("one3", 0))["history.csv"]
    path.write_text("edited")
    sound, refused = sort(workspace, plan)
    assert sound == {"finetune"}
    assert len(refused) == 1
    assert str(path) in refused[0]


def test_phase_without_runs_is_recorded(workspace: Workspace, plan: Study) -> None:
    """DVC has a stage for the phase, which has nothing to make."""
    sound, _ = record._sort(workspace, plan, Digests())
    assert {"merge", "ensemble", "transfer"} <= set(sound)
    assert not {"tables", "claims", "report"} & set(sound)


@pytest.mark.parametrize("there", [(), (".dvc",)])
def test_folder_without_dvc_or_git_is_refused(tmp_path: Path, there: tuple[str, ...]) -> None:
    """One line has the command that creates the repository."""
    for name in there:
        (tmp_path / name).mkdir()
    with pytest.raises(CoopNetError, match="`git init`" if there else "`dvc init`"):
        record.record(Workspace(tmp_path), "full")
