"""Results recorded in DVC match the plan, including the weights from which a run was made."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.utils.serialize import parse_yaml
from voluptuous import MultipleInvalid

from conftest import ROOT
from coopnet import files, study
from coopnet.commands import record
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs import dvc, phase_keys, records, steps
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

ONLY = {"only": ["one3", "one3_continued"], "seeds": [0], "time_scale": 0.01}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a parent and its control."""
    return study.load(parameters(tmp_path_factory.mktemp("plan")), "tiny")


def parameters(root: Path) -> Path:
    """Write the parameters of the study into a folder."""
    (root / "studies").mkdir()
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "studies" / "tiny.yaml").write_text(yaml.safe_dump(ONLY))
    return root


@pytest.fixture
def workspace(tmp_path: Path, plan: Study) -> Workspace:
    """A parent and its child with consistent records."""
    made = Workspace(tmp_path)
    write_files(made, plan, plan.run("one3", 0), "weights")
    write_files(made, plan, plan.run("one3_continued", 0), "others")
    return made


def write_files(workspace: Workspace, plan: Study, run: Run, weights: str) -> None:
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
    with records.recording(workspace, lambda: step):
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
    write_files(workspace, plan, plan.run("one3", 0), "of another machine")
    sound, refused = sort(workspace, plan)
    assert sound == {"train_one"}
    assert refused == [
        "one3_continued/seed0 was made from other weights of one3/seed0 than those in this workspace; make it again"
    ]


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


def test_project_in_a_folder_of_a_repository_is_recorded(tmp_path: Path) -> None:
    """`dvc init --subdir` leaves git's folder further up."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "project" / ".dvc").mkdir(parents=True)
    dvc.check_repository(tmp_path / "project", "full")


def test_study_without_stages_is_refused(workspace: Workspace) -> None:
    """DVC knows the studies that are listed in its file; for any other, one line has the remedy."""
    for name in (".dvc", ".git"):
        (workspace.root / name).mkdir()
    listed = workspace.root / "studies" / "dvc.yaml"
    listed.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / "studies" / "dvc.yaml", listed)
    dvc.check_repository(workspace.root, "mini")
    dvc.check_repository(workspace.root, "full")
    with pytest.raises(CoopNetError, match=r"no stages for the study tiny; add its name to the list .* record tiny"):
        record.record(workspace, "tiny")
    assert dvc.datasets(ROOT) == ["cifar10", "cifar100", "digits", "digits16"]
    listed.write_text("stages: []")
    with pytest.raises(CoopNetError, match=r"dvc\.yaml has no stage plan"):
        record.record(workspace, "tiny")


def test_images_that_dvc_does_not_list_are_left_out(
    workspace: Workspace, committed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The study is recorded without them, and one line says so."""
    monkeypatch.setattr(record, "_prepared", lambda *_: True)
    caplog.set_level("INFO", "coopnet")
    record.record(workspace, "tiny")
    assert "prepare@cifar100" not in committed
    assert "studies/dvc.yaml:plan@tiny" in committed
    assert "images of cifar100 are not recorded" in caplog.text
    monkeypatch.setattr(dvc, "datasets", lambda _: ["cifar100"])
    record.record(workspace, "tiny")
    assert "prepare@cifar100" in committed


def test_stages_that_cannot_be_read_are_no_unknown_study(tmp_path: Path) -> None:
    """`coopnet record --if-possible` passes over what DVC does not know, and not over a broken file."""
    for folder in (".dvc", ".git", "studies"):
        (tmp_path / folder).mkdir()
    with pytest.raises(dvc.Unknown, match="no stages for the study demo"):
        dvc.check_repository(tmp_path, "demo")
    (tmp_path / "studies/dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(CoopNetError, match="no stage plan") as refused:
        dvc.check_repository(tmp_path, "demo")
    assert not isinstance(refused.value, dvc.Unknown)


def test_recording_waits_for_another_dvc(tmp_path: Path) -> None:
    """While another DVC holds the lock, `dvc commit` is tried again; any other error has DVC's own words."""
    assert dvc.PATIENCE == 600
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {make: {cmd: echo made > made, outs: [made]}}\n")
    (tmp_path / "made").write_text("made\n")
    hold = "import dvc.repo, sys\nwith dvc.repo.Repo().lock: print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert holder.stdin is not None
        threading.Timer(4, holder.stdin.close).start()
        dvc.commit(tmp_path, "make")
        assert holder.wait(60) == 0
    assert "made" in (tmp_path / "dvc.lock").read_text()
    with pytest.raises(CoopNetError, match=r"dvc commit failed: .*'other' does not exist"):
        dvc.commit(tmp_path, "other")


@pytest.fixture
def committed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that DVC was told to record in the workspace, which has its parameters; DVC itself is not called."""
    addresses: list[str] = []
    parameters(workspace.root)
    monkeypatch.setattr(dvc, "check_repository", lambda *_: None)
    monkeypatch.setattr(dvc, "datasets", lambda _: ["digits"])
    monkeypatch.setattr(dvc, "commit", lambda _, *stages: addresses.extend(stages))
    return addresses


def test_plan_is_written_and_recorded_with_the_phases(workspace: Workspace, plan: Study, committed: list[str]) -> None:
    """The stages that are recorded depend on the files of the plan, so these are recorded too."""
    record.record(workspace, "tiny")
    assert phase_keys.are_written(workspace, plan)
    stages = [f"studies/dvc.yaml:{phase}@tiny" for phase in ("plan", "train_one", "finetune")]
    assert [address for address in committed if address in stages] == stages


def test_plan_is_recorded_where_a_run_is_refused(workspace: Workspace, plan: Study, committed: list[str]) -> None:
    """DVC then asks for the phase of that run, which is not recorded, and for no other."""
    targets(workspace, plan, plan.run("one3", 0))["history.csv"].write_text("edited")
    with pytest.raises(CoopNetError, match=r"not recorded: .*history\.csv"):
        record.record(workspace, "tiny")
    assert phase_keys.are_written(workspace, plan)
    assert "studies/dvc.yaml:plan@tiny" in committed
    assert "studies/dvc.yaml:train_one@tiny" not in committed


@pytest.mark.parametrize("changes", [{"title": "Another title"}, {"time_scale": 0.02}])
@pytest.mark.parametrize("before", [None, "schema: '2.0'\n"])
def test_edit_while_dvc_records_leaves_its_lock_as_it_was(
    workspace: Workspace,
    committed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    before: str | None,
) -> None:
    """DVC would record the edited parameters for the runs and words of the earlier ones."""
    lock = workspace.root / "studies" / "dvc.lock"
    if before is not None:
        lock.write_text(before)

    def edited(*_: object) -> None:
        lock.write_text("schema: '2.0'\nstages: {}\n")
        (workspace.root / "studies" / "tiny.yaml").write_text(yaml.safe_dump(ONLY | changes))

    monkeypatch.setattr(dvc, "commit", edited)
    with pytest.raises(CoopNetError, match="edited while DVC recorded"):
        record.record(workspace, "tiny")
    assert (lock.read_text() if lock.exists() else None) == before


LOCK = b"""schema: '2.0'
stages:
  plan@tiny:
    cmd: coopnet plan tiny --write
    deps:
    - path: params.yaml
      hash: md5
      md5: 3b5d5c3712955042212316173ccf37be
      size: 60
    params:
      studies/tiny.yaml:
        only:
        - one3
        seeds:
        - 0
    outs:
    - path: checkpoints/tiny/plan
      hash: md5
      md5: d751713988987e9331980363e24189ce.dir
      size: 60
      nfiles: 9
"""


def test_every_cut_lock_that_dvc_refuses_is_known_for_half_written() -> None:
    """DVC killed anywhere while it wrote its lock: `coopnet record` removes what DVC cannot read, and nothing whole."""
    refused = {length for length in range(len(LOCK)) if not _readable(LOCK[:length])}
    assert len(refused) > 50
    assert [length for length in sorted(refused) if dvc._is_whole(LOCK[:length])] == []
    assert dvc._is_whole(LOCK)


def _readable(lock: bytes) -> bool:
    """Whether DVC accepts a lock."""
    try:
        Lockfile.SCHEMA(parse_yaml(lock.decode(), "dvc.lock"))
    except (DvcException, MultipleInvalid):
        return False
    return True
