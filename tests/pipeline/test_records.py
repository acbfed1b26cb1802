"""Files in a workspace are compared by content: valid, stale, missing or damaged, whichever engine made them."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import stamps
import startup
from conftest import ROOT, flip
from coopnet import files, study
from coopnet.commands import report
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import records, steps
from coopnet.runs.states import state
from coopnet.runs.steps import Step
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study
from finished_fixture import Home, made_once


@pytest.fixture(scope="module")
def plan() -> Study:
    """The full study; these workspaces have none of its results."""
    return study.load(ROOT)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path)


@pytest.fixture
def step(workspace: Workspace) -> Step:
    """A finished step from two files to one."""
    made = Step(
        "tiny/add",
        workspace.root / "sum.record.json",
        "claims",
        (workspace.root / "a", workspace.root / "b"),
        (workspace.root / "sum",),
        "words",
    )
    for path in made.inputs:
        path.write_text(path.name)
    take(workspace, made)
    return made


def take(workspace: Workspace, step: Step) -> None:
    """Write the outputs and the record of the step."""
    with records.recording(workspace, lambda: step):
        step.outputs[0].write_text("".join(path.read_text() for path in step.inputs))


def kind(workspace: Workspace, step: Step) -> str | None:
    """The kind of a step's problem, or None."""
    problem = records.check_step(workspace, step, Digests())
    return problem and problem.kind


def test_step_that_was_taken_is_current(workspace: Workspace, step: Step) -> None:
    """The step is valid after it was made, and after a change of dates only."""
    assert kind(workspace, step) is None
    for path in (*step.inputs, *step.outputs):
        os.utime(path, (1, 1))
    assert kind(workspace, step) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda workspace, step: step.inputs[1].write_text("other"), "stale"),
        (lambda workspace, step: step.inputs[1].unlink(), "stale"),
        (lambda workspace, step: step.outputs[0].write_text("other"), "damaged"),
        (lambda workspace, step: step.outputs[0].write_text(""), "damaged"),
        (lambda workspace, step: step.outputs[0].unlink(), "missing"),
        (lambda workspace, step: step.record.unlink(), "stale"),
        (lambda workspace, step: step.record.write_text("{}"), "stale"),
        (lambda workspace, step: step.record.write_text("[]"), "stale"),
    ],
)
def test_what_is_wrong_with_a_step(
    workspace: Workspace, step: Step, change: Callable[[Workspace, Step], object], expected: str
) -> None:
    """The changed or removed file is an input, an output or the record."""
    change(workspace, step)
    assert kind(workspace, step) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"source": "evaluation"},
        {"parameters": "others"},
        {"inputs": ()},
        {"outputs": ()},
    ],
)
def test_step_planned_otherwise_is_stale(workspace: Workspace, step: Step, change: dict) -> None:  # type: ignore[type-arg]
    """Changes: other source, other parameters, another list of files."""
    assert kind(workspace, Step(**(vars(step) | change))) == "stale"


def test_step_is_refused_when_an_input_is_edited_meanwhile(workspace: Workspace, step: Step) -> None:
    """It is unknown from which version the output was made, so no record is written."""

    def make() -> None:
        with records.recording(workspace, lambda: step):
            step.outputs[0].write_text("ab")
            step.inputs[1].write_text("edited")

    with pytest.raises(CoopNetError, match="b was changed while tiny/add was made from it"):
        make()
    assert kind(workspace, step) == "stale"


def test_step_is_refused_when_parameters_are_edited_meanwhile(workspace: Workspace, step: Step) -> None:
    """The plan is read again at the end."""
    plans = iter([step, Step(**(vars(step) | {"parameters": "edited"}))])
    with (
        pytest.raises(CoopNetError, match=r"params.yaml or the study was changed"),
        records.recording(workspace, lambda: next(plans)),
    ):
        pass


def test_step_that_fails_leaves_no_record(workspace: Workspace, step: Step) -> None:
    """Outputs of a failed command have no record."""
    with pytest.raises(ZeroDivisionError), records.recording(workspace, lambda: step):
        raise ZeroDivisionError
    assert kind(workspace, step) == "stale"


@pytest.mark.parametrize("written", [False, True])
def test_refused_step_keeps_its_record(workspace: Workspace, step: Step, written: bool) -> None:
    """A refused command leaves the record of what is there; if it has written something, there is no record."""
    before = step.record.read_bytes()

    def make() -> None:
        with records.recording(workspace, lambda: step):
            assert not step.record.exists()
            if written:
                step.outputs[0].write_text("half")
            raise CoopNetError("a typing error")

    with pytest.raises(CoopNetError, match="a typing error"):
        make()
    assert (step.record.read_bytes() if step.record.exists() else None) == (None if written else before)


def test_every_step_of_a_study_reads_what_is_there_before_it(plan: Study, workspace: Workspace) -> None:
    """Inputs are records of runs, outputs of an earlier step, or project files; the names of steps are unique."""
    there = {workspace.claims_file, workspace.published}
    there |= {workspace.run(plan, run) / "run.json" for run in plan.everything()}
    names = set()
    evaluations = [steps.evaluate(workspace, plan, run) for run in plan.everything()]
    for step in (*evaluations, *steps.of_all_runs(workspace, plan)):
        assert there.issuperset(step.inputs), step.name
        assert there.isdisjoint(step.outputs), step.name
        assert step.name not in names
        there.update(step.outputs)
        names.add(step.name)


# Runs


TIMING = "epoch,train_seconds,evaluation_seconds,images_per_second\n0,1.368,1.117,73.1\n"
"""A `timing.csv` of one epoch."""


@pytest.fixture
def run(plan: Study, workspace: Workspace) -> Run:
    """A run with valid files."""
    planned = plan.run("baseline", 0)
    wanted = targets(workspace, plan, planned)
    for name, path in wanted.items():
        files.write_text(path, TIMING if name == "timing.csv" else name)
    listed = {name: files.sha256(path) for name, path in wanted.items() if "json" not in name and name != "timing.csv"}
    files.write_json(wanted["run.json"], files.sealed({"key": planned.key, "files": listed}))
    return planned


def test_run_as_planned_is_current(workspace: Workspace, plan: Study, run: Run) -> None:
    """Its record has the planned key, and its files match the record."""
    assert records.check_run(workspace, plan, run, Digests()) is None


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.safetensors", "run.json", "logits.safetensors", "history.csv", "timing.csv"],
)
def test_damaged_file_of_a_run_is_named(workspace: Workspace, plan: Study, run: Run, name: str) -> None:
    """One flipped bit in any of its files is reported."""
    path = targets(workspace, plan, run)[name]
    flip(path)
    problem = records.check_run(workspace, plan, run, Digests())
    assert problem is not None
    assert problem.kind == "damaged"
    assert str(path) in problem.text


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "epoch,train_seconds",
        TIMING[:-3],
        TIMING.replace("tion", "tinn"),
        TIMING.replace("1.368", "soon"),
        "0,1,1,1\n",
    ],
)
def test_timing_that_is_no_table_is_damaged(workspace: Workspace, plan: Study, run: Run, damaged: str) -> None:
    """It has no digest, but a file that the tables cannot read is damaged."""
    path = targets(workspace, plan, run)["timing.csv"]
    path.write_text(damaged)
    problem = records.check_run(workspace, plan, run, Digests())
    assert problem is not None
    assert problem.kind == "damaged"
    path.write_text("\n")  # no epoch
    assert records.check_run(workspace, plan, run, Digests()) is None


def test_run_that_lacks_a_file_is_missing(workspace: Workspace, plan: Study, run: Run) -> None:
    """Each of its files is required."""
    for path in targets(workspace, plan, run).values():
        content = path.read_bytes()
        path.unlink()
        problem = records.check_run(workspace, plan, run, Digests())
        assert problem is not None
        assert problem.kind == "missing"
        assert str(path) in problem.text
        path.write_bytes(content)


def test_record_that_cannot_be_read_is_damaged(workspace: Workspace, plan: Study, run: Run) -> None:
    """Half a record is damaged and not stale."""
    path = targets(workspace, plan, run)["run.json"]
    path.write_text(path.read_text()[:20])
    problem = records.check_run(workspace, plan, run, Digests())
    assert problem is not None
    assert problem.kind == "damaged"
    assert str(path) in problem.text


def test_run_of_another_key_is_stale(workspace: Workspace, plan: Study, run: Run) -> None:
    """Intact files of another seed in its place are stale."""
    places = targets(workspace, plan, plan.run("baseline", 1))
    for name, path in targets(workspace, plan, run).items():
        places[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, places[name])
    problem = records.check_run(workspace, plan, plan.run("baseline", 1), Digests())
    assert problem is not None
    assert problem.kind == "stale"
    assert "baseline/seed1" in problem.text


# Dates, for Snakemake


def test_stamps_are_old_only_for_what_is_current(
    workspace: Workspace, plan: Study, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A valid run has a stamp older than everything; a missing or damaged one has a new stamp."""
    step = steps.evaluate(workspace, plan, run)
    due = stamps.refresh(workspace, plan)
    current, missing = (stamps.run_stamp(workspace, plan, "train_baseline", "baseline", seed) for seed in (0, 1))
    place = ("train_baseline", "baseline", 0)
    assert due.runs == {(one.phase, one.experiment, one.seed) for one in plan.everything()} - {place}
    assert due.evaluations == {place}
    assert current.stat().st_mtime > stamps.LONG_AGO
    with records.recording(workspace, lambda: step):
        for path in step.outputs:
            path.write_text("evaluated")
    assert not stamps.refresh(workspace, plan).evaluations
    assert current.stat().st_mtime == stamps.LONG_AGO
    assert missing.stat().st_mtime > stamps.LONG_AGO
    assert not caplog.records
    path = targets(workspace, plan, run)["history.csv"]
    path.write_text("edited")
    os.utime(path, (later := path.stat().st_mtime - 1, later))
    stamps.refresh(workspace, plan)
    assert current.stat().st_mtime > path.stat().st_mtime
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_current_outputs_are_dated_after_what_they_were_made_from(workspace: Workspace, plan: Study, run: Run) -> None:
    """A clone's files have arbitrary dates; valid outputs must not look older than their inputs."""
    data = workspace.prepared("cifar100") / "manifest.json"
    files.write_text(data, "{}")
    wanted = targets(workspace, plan, run)
    for path in wanted.values():
        os.utime(path, (10, 10))
    stamps.refresh(workspace, plan)
    assert all(path.stat().st_mtime >= data.stat().st_mtime for path in wanted.values())


def test_dates_in_the_future_hide_nothing(workspace: Workspace, plan: Study, run: Run) -> None:
    """Of a clock that is ahead: a stale run has the newest stamp, no input is newer than an output, links neither."""
    data = workspace.prepared("cifar100") / "manifest.json"
    files.write_text(data, "{}")
    wanted = targets(workspace, plan, run)
    later = time.time() + 172_800
    linked = wanted["history.csv"]
    linked.symlink_to(linked.rename(linked.with_name("elsewhere.csv")))
    for path in (data, *wanted.values()):
        os.utime(path, (later, later))
        os.utime(path, (later, later), follow_symlinks=False)
    stamps.refresh(workspace, plan)
    stamp = stamps.run_stamp(workspace, plan, "train_baseline", "baseline", 0)  # its evaluation is missing
    assert linked.is_symlink()
    for date in (Path.stat, Path.lstat):
        assert all(data.stat().st_mtime <= date(path).st_mtime < stamp.stat().st_mtime for path in wanted.values())


# Digests


def test_digest_follows_the_content(tmp_path: Path) -> None:
    """The digest changes with the content even if size and modification date stay the same."""
    path = tmp_path / "file"
    path.write_text("one")
    date = path.stat().st_mtime_ns
    digests = Digests()
    first = digests(path)
    path.write_text("two")
    os.utime(path, ns=(date, date))
    assert digests(path) == files.sha256(path) != first


def test_digests_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process does not read the file again, even after its date was changed by `date`."""
    path = tmp_path / "file"
    path.write_text("one")
    with remembered(tmp_path / "digests.json") as digests:
        first = digests(path)
        os.utime(path, (1, 1))
        digests.date(path)
    assert path.stat().st_mtime > 1
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("was read"))
    assert Digests(tmp_path / "digests.json")(path) == first


def test_file_of_another_user_is_replaced_to_be_dated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link into a cache of somebody else becomes a copy of one's own."""
    (tmp_path / "cached").write_text("one")
    os.utime(tmp_path / "cached", (1, 1))
    path = tmp_path / "file"
    path.symlink_to(tmp_path / "cached")

    date = os.utime

    def refuse(where: Path, *times: object) -> None:
        if where.is_symlink():
            raise PermissionError(1, "Operation not permitted")
        date(where, *times)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "utime", refuse)
    digests = Digests()
    digests.date(path, 1000.0)
    assert not path.is_symlink()
    assert (path.stat().st_mtime, (tmp_path / "cached").stat().st_mtime) == (1000, 1)
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("was read"))
    assert digests(path)


def test_memory_that_may_not_be_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague who may only read sees the digests all the same; any other error is said."""
    (tmp_path / "file").write_text("one")
    with pytest.raises(CoopNetError), remembered(tmp_path / "file" / "digests.json") as digests:
        digests(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with remembered(tmp_path / "new" / "digests.json") as digests:
        assert digests(tmp_path / "file") == files.sha256(tmp_path / "file")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"file": 1}'])
def test_damaged_memory_is_forgotten(tmp_path: Path, content: str) -> None:
    """It is only a cache."""
    (tmp_path / "digests.json").write_text(content)
    (tmp_path / "file").write_text("one")
    assert Digests(tmp_path / "digests.json")(tmp_path / "file") == files.sha256(tmp_path / "file")


def test_missing_file_has_no_digest(tmp_path: Path) -> None:
    """A folder has no digest either."""
    assert Digests()(tmp_path / "none") is None
    assert Digests()(tmp_path) is None


# Locks


def test_locks_of_the_dead_are_cleared_and_those_of_the_living_kept(tmp_path: Path) -> None:
    """A second Snakemake beside a running one keeps the locks; after the end of the first they are stale."""
    left = tmp_path / "locks" / "0.input.lock"
    left.parent.mkdir()
    left.touch()
    first = startup.remove_stale_locks(tmp_path)
    assert not left.exists()
    left.touch()  # its own lock
    second = startup.remove_stale_locks(tmp_path)
    assert left.exists()
    os.close(first)
    third = startup.remove_stale_locks(tmp_path)
    assert left.exists()  # the second one is running
    os.close(second)
    os.close(third)
    os.close(startup.remove_stale_locks(tmp_path))
    assert not left.exists()


# Results that were gathered elsewhere


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A copy of a finished study."""
    return made_once(tmp_path_factory).copy(tmp_path / "home")


def forget(home: Home, *runs: str) -> None:
    """Remove the folders of runs, with those of their networks at transfer."""
    for run in runs:
        for folder in (home.workspace.root / "checkpoints/tiny").glob(f"*/{run}"):
            shutil.rmtree(folder)


@pytest.mark.parametrize("elsewhere", [("one3/seed0",), ("one3_to_5_split/seed0",), ("one3/*", "one3_to_5_split/*")])
def test_runs_gathered_elsewhere_are_kept_to_the_last_byte(home: Home, elsewhere: tuple[str, ...]) -> None:
    """Without `keep` they are missing, and nothing is removed. With it, all results are the same as before."""
    before = home.promised("workspace/results/tiny")
    forget(home, *elsewhere)
    with pytest.raises(CoopNetError, match="missing"):
        home.tables()
    assert home.promised("workspace/results/tiny") == before
    report.tables(home.workspace, "tiny", keep=True)
    assert home.promised("workspace/results/tiny") == before


def test_a_run_that_is_here_replaces_the_gathered_one(home: Home) -> None:
    """Its own files are read, also if others are kept."""
    metrics = home.workspace.run(home.plan(), home.run()) / "metrics.json"
    metrics.with_name("evaluation.json").unlink()  # it would tell of the edit
    edited = files.read_json(metrics)
    edited["final"]["test"]["ensemble"]["nll"] = 1.25
    files.write_json(metrics, edited)
    forget(home, "one3_to_5_split/seed0")
    report.tables(home.workspace, "tiny", keep=True)
    gathered = files.read_json(home.workspace.results("tiny") / "metrics.json")
    assert gathered["one3/seed0"]["final"]["test"]["ensemble"]["nll"] == 1.25


def test_kept_child_of_another_training_of_its_parent_is_refused(home: Home) -> None:
    """The parent was trained again here, with other weights under the same key."""
    path = home.run_record()
    record = files.read_sealed(path)
    record["files"]["model.safetensors"] = "0" * 64
    files.write_json(path, files.sealed(record))
    forget(home, "one3_to_5_split/seed0")
    with pytest.raises(CoopNetError, match=r"one3_to_5_split/seed0 was made from another training of one3/seed0"):
        report.tables(home.workspace, "tiny", keep=True)


def trained_elsewhere(home: Home) -> str:
    """Give `one3` the weights of another machine; returns their digest."""
    weights = home.run_record().with_name("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-4] ^= 1  # the last digits of a number
    weights.write_bytes(content)
    record = files.read_sealed(home.run_record())
    record["files"]["model.safetensors"] = files.sha256(weights)
    files.write_json(home.run_record(), files.sealed(record))
    return files.sha256(weights)


def test_state_of_another_training_of_the_parent_is_not_continued(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A child that was interrupted starts over once its parent has other weights."""
    child = home.run("one3_to_5_split")
    shutil.rmtree(home.store.folder(child.key))
    shutil.rmtree(home.workspace.run(home.plan(), child))
    assert home.train(experiment="one3_to_5_split", minutes=0) == 75
    trained_elsewhere(home)
    home.transfer()
    assert home.train(experiment="one3_to_5_split") == 0
    assert "another machine, version or parent (ancestors there" in caplog.text


def test_child_of_another_training_of_its_parent_is_made_again(home: Home) -> None:
    """The parent lost its entry in the store and was trained again elsewhere; the store still has the child."""
    plan, child = home.plan(), home.run("one3_to_5_split")
    assert child.transfer is not None
    digest = trained_elsewhere(home)
    before = home.promised("workspace/results/tiny")
    with pytest.raises(CoopNetError, match=r"one3_to_5_split/seed0 was made from another training of one3/seed0"):
        home.tables()
    assert home.promised("workspace/results/tiny") == before
    for run in (child, child.transfer):
        problem = records.check_run(home.workspace, plan, run, Digests())
        assert problem is not None
        assert problem.kind == "stale"
        assert state(home.workspace, plan, run, home.store, Digests()).startswith("stale: one3_to_5_split/seed0")
    home.transfer()
    assert home.train(experiment="one3_to_5_split") == 0
    home.evaluate()
    home.evaluate_transfer()
    home.evaluate(experiment="one3_to_5_split")
    home.tables()
    made = files.read_sealed(home.store.folder(child.key) / "run.json")
    assert made["parents"] == [{"key": home.run().key, "digest": digest}]


def test_kept_run_with_other_settings_is_refused(home: Home) -> None:
    """Both places are named."""
    path = home.workspace.root / "studies/tiny.yaml"
    path.write_text(path.read_text().replace("time_scale: ", "time_scale: 1"))
    forget(home, "one3/seed0", "one3_to_5_split/seed0")
    with pytest.raises(CoopNetError, match=r"neither .*one3/seed0 nor .*results/tiny has one3/seed0"):
        report.tables(home.workspace, "tiny", keep=True)


@pytest.mark.parametrize("name", ["metrics.json", "outcomes.safetensors", "tables/history.csv"])
def test_gathered_results_that_were_edited_are_not_kept(home: Home, name: str) -> None:
    """The edited file is named."""
    path = home.workspace.results("tiny") / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CoopNetError, match=f"changed since tiny/tables wrote it: results/tiny/{name}"):
        report.tables(home.workspace, "tiny", keep=True)


def test_results_without_a_record_are_not_kept(home: Home) -> None:
    """Nothing says what they were made from."""
    (home.workspace.results("tiny") / "tables.record.json").unlink()
    with pytest.raises(CoopNetError, match=r"tables\.record\.json does not say what tiny/tables was made from"):
        report.tables(home.workspace, "tiny", keep=True)


def test_kept_run_without_votes_is_refused_where_they_are_needed(home: Home) -> None:
    """The table of votes has only the largest networks from scratch, so another study may lack those of its own."""
    votes = home.workspace.tables("tiny") / "votes.csv"
    votes.write_text(votes.read_text().splitlines()[0] + "\n")
    path = home.workspace.results("tiny") / "tables.record.json"
    record = files.read_sealed(path)
    record["outputs"]["results/tiny/tables/votes.csv"] = files.sha256(votes)
    files.write_json(path, files.sealed(record))
    forget(home, "one3/seed0")
    with pytest.raises(CoopNetError, match="no votes of one3 seed 0"):
        report.tables(home.workspace, "tiny", keep=True)


def test_damaged_timings_of_a_kept_run_are_named(home: Home) -> None:
    """No record has their digest. Nothing that was gathered is to be deleted."""
    timing = home.workspace.tables("tiny") / "timing.csv"
    timing.write_text(timing.read_text().splitlines()[0] + "\n")
    forget(home, "one3/seed0")
    with pytest.raises(
        CoopNetError, match=r"one3 seed 0 cannot be reported: .*results/tiny are damaged.*train that run"
    ):
        report.tables(home.workspace, "tiny", keep=True)
