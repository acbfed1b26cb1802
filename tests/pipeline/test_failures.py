"""A failed run stops with a reason, keeps its state, and is shown as failed: never as missing, never as zero."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import engines_fixture
import report_fixture as synthetic
from coopnet import files, study
from coopnet.commands import record, transfer, watch
from coopnet.commands import train as train_command
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError, TrainingFailed, out_of_memory
from coopnet.report import content, report, tables
from coopnet.report.document import Report, Table
from coopnet.report.frames import load
from coopnet.runs import failures, records, steps
from coopnet.runs.states import state as state_of
from coopnet.runs.stop import TIME_IS_UP
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Study
from coopnet.training import trainer
from coopnet.training.trainer import train
from test_claims import by_branches, ledger_of, made
from tiny_fixture import make_workspace
from training_fixture import Ram, Silence, never, settings, task

FAILED = TrainingFailed("the training loss is nan in epoch 1, step 2 of 5: training has diverged", "diverged", 1, 2)


# Training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "word"), [(3e38, "inf"), (float("nan"), "nan")])
def test_loss_that_is_no_number_stops_the_run(value: float, word: str) -> None:
    """An infinite loss, and NaN, in a real network: epoch and step, in words and as numbers; nothing is saved."""
    memory, job = Ram(), task(settings(precision="fp32"))
    for name, parameter in job.initial.network.named_parameters():
        if name.endswith("classifier.bias"):
            parameter.data.copy_(torch.tensor([value, -value, value, -value]))
    with pytest.raises(
        TrainingFailed, match=rf"loss is {word} in epoch 0, step 1 of 5: .*lower training\.opt"
    ) as found:
        train(job, memory, Silence(), never)
    assert (found.value.kind, found.value.epoch, found.value.step) == ("diverged", 0, 1)
    assert memory.saved is None


def test_memory_that_runs_out_is_told_from_other_errors() -> None:
    """The error types of PyTorch and NumPy and the messages of CPU and CUDA allocators; no other RuntimeError."""
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.")) == "CUDA out of memory"
    assert out_of_memory(MemoryError()) == "MemoryError"
    for words in ("DefaultCPUAllocator: can't allocate memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"):
        assert out_of_memory(RuntimeError(f"[enforce fail] err == 0. {words}. Error code 12")) == words
    assert out_of_memory(RuntimeError("shapes cannot be multiplied")) is None
    recording = RuntimeError("operation failed due to a previous error during capture")  # raised at the end of a graph
    recording.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.")
    assert out_of_memory(recording) == "CUDA out of memory"


def test_other_errors_of_the_runtime_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is not reported as a lack of memory."""

    def broken(*arguments: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(trainer, "train_step", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        train(task(settings()), Ram(), Silence(), never)


def test_an_operation_without_equal_bits_is_named(tmp_path: Path, root: Path) -> None:
    """As PyTorch's own refusal names it; nothing is recorded, since another attempt would end alike."""
    plan, workspace = study.load(root, "demo"), Workspace(tmp_path)
    run = plan.run("one3", 0)
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        with (
            pytest.raises(CoopNetError, match=r"^put_ has no version on cpu that gives the same bits each"),
            failures.recorded(workspace, plan, run),
        ):
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.set_deterministic_debug_mode(before)
    assert not workspace.failure(plan, run).exists()


TIGHT = """
import resource, sys, torch
from pathlib import Path
from coopnet.commands.train import train
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace
import coopnet.runs.job, safetensors.torch
torch.ones(8, 8) @ torch.ones(8, 8)
used = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
try:
    train(Workspace(Path()), "tiny", "one3", 0, None, None)
except CoopNetError as error:
    print(error)
    sys.exit(1)
"""


@pytest.mark.slow
def test_memory_of_the_machine_that_runs_out_is_a_failed_run(tmp_path: Path, prepared: Path) -> None:
    """Exhausted memory of a process gives epoch, step, remedy and a record; with enough memory the run succeeds."""
    root = make_workspace(tmp_path / "workspace", prepared)
    edit(root, {"every_experiment": {"training": {"batch_size": 200}, "model": {"width": 16}}})

    def within(megabytes: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TIGHT, str(megabytes)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    done = within(300)
    assert done.returncode == 1, done.stderr
    said = re.search(
        r"one3/seed0: no memory left on cpu in epoch (\d), (step 1 of 1|while .*): lower training.batch_size "
        r".*\(DefaultCPUAllocator: can't allocate memory: you tried to allocate \d+ bytes\)",
        done.stdout,
    )
    assert said, done.stdout
    workspace, plan = Workspace(root), study.load(root, "tiny")
    unavailable = failures.unavailable(workspace, plan)["one3", 0]
    assert unavailable.failure
    assert (unavailable.kind, unavailable.failure["epoch"]) == ("out_of_memory", int(said[1]))
    assert within(100_000).returncode == 0
    assert not failures.unavailable(workspace, plan)
    assert not workspace.failure(plan, plan.run("one3", 0)).exists()


# The record ----------------------------------------------------------------------------------------


def edit(root: Path, changes: dict[str, Any]) -> None:
    """Merge changes into the tiny study."""
    path = root / "studies" / "tiny.yaml"
    path.write_text(yaml.safe_dump(study.merge(yaml.safe_load(path.read_text()), changes)))


@pytest.fixture
def wild(tmp_path: Path, prepared: Path) -> Workspace:
    """A workspace with a tiny study whose `one3` diverges."""
    root = make_workspace(tmp_path / "workspace", prepared)
    edit(root, {"experiments": {"one3": {"training": {"optimizer": {"lr": 1e6}}}}})
    return Workspace(root)


def test_failed_run_leaves_a_record_until_it_is_made(wild: Workspace) -> None:
    """A real run gives one line, a record with reason and place, shown by `coopnet runs`; a fix removes all of it."""
    plan = study.load(wild.root, "tiny")
    with pytest.raises(CoopNetError, match=r"one3/seed0: .* is (nan|inf) in epoch 0.*diverged") as said:
        train_command.train(wild, "tiny", "one3", 0, None, None)
    assert "one3/seed0: " + failures.unavailable(wild, plan)["one3", 0].text.removeprefix("failed: ") == str(said.value)
    entries = Store(wild.root / "store")

    def state(experiment: str) -> str:
        unavailable = failures.unavailable(wild, plan).get((experiment, 0))
        return state_of(wild, plan, plan.run(experiment, 0), entries, Digests(), unavailable)

    assert state("one3").startswith("failed: ")
    assert state("one3_to_5_split") == "waiting for one3/seed0, which failed"
    kept = wild.failure(plan, plan.run("one3", 0)).read_bytes()
    with pytest.raises(CoopNetError, match="diverged"):
        train_command.train(wild, "tiny", "one3", 0, None, None)
    assert wild.failure(plan, plan.run("one3", 0)).read_bytes() == kept  # nothing in it depends on the date
    edit(wild.root, {"experiments": {"one3": {"training": {"optimizer": {"lr": 0.1}}}}})
    plan = study.load(wild.root, "tiny")
    assert not failures.unavailable(wild, plan)  # nothing is known yet about another learning rate
    assert train_command.train(wild, "tiny", "one3", 0, None, None) == 0
    assert not wild.failure(plan, plan.run("one3", 0)).exists()


def test_what_is_no_failure_of_training_leaves_no_record(wild: Workspace) -> None:
    """A missing parent, and a stop at the time limit, are not failures of training."""
    with pytest.raises(CoopNetError, match="one3/seed0 of study tiny is missing"):
        transfer.transfer(wild, "tiny", "one3_to_5_split", 0, None)
    with pytest.raises(CoopNetError, match="one3_to_5_split/seed0 at transfer of study tiny is missing"):
        train_command.train(wild, "tiny", "one3_to_5_split", 0, None, None)
    edit(wild.root, {"experiments": {"one3": {"training": {"optimizer": {"lr": 0.1}}}}})
    assert train_command.train(wild, "tiny", "one3", 0, None, 0.0) == TIME_IS_UP
    assert not list(wild.root.rglob("failure.json"))


@pytest.fixture
def known(tmp_path: Path) -> tuple[Workspace, Study]:
    """A study of synthetic runs with three seeds, all present."""
    return made(tmp_path, by_branches)


def lose(workspace: Workspace, plan: Study, experiment: str, seed: int) -> None:
    """Make a run fail: delete its files and write a failure record."""
    run = plan.run(experiment, seed)
    for path in workspace.run(plan, run).glob("*"):
        path.unlink()
    failures.write(workspace, plan, run, FAILED)


def test_descendants_of_failed_runs_are_lost(known: tuple[Workspace, Study]) -> None:
    """All descendants of that seed only; records of another key, or beside a result, are ignored."""
    workspace, plan = known
    assert failures.unavailable(workspace, plan) == {}
    lose(workspace, plan, "one3", 1)
    unavailable = failures.unavailable(workspace, plan)
    assert {seed for _, seed in unavailable} == {1}
    assert set(unavailable) == {
        place
        for place, run in plan.runs.items()
        if place == ("one3", 1) or "one3/seed1" in [p.name for p in run.parents]
    }
    assert [one.kind for one in unavailable.values()].count("waiting") == len(unavailable) - 1 > 1
    listed = watch.progress_of(workspace, plan, Store(workspace.root / "store"), set()).failed
    assert sorted(one.run.name for one in listed) == sorted(
        run.name for run in plan.everything() if (run.experiment, run.seed) in unavailable
    )
    path = workspace.failure(plan, plan.run("one3", 1))
    content = files.read_json(path)
    for change in ({"key": "0" * 32}, {"reason": "nothing"}, {"seal": 1}):
        files.write_json(path, content | change)
        assert failures.unavailable(workspace, plan) == {}
    path.write_text("[]")
    assert failures.unavailable(workspace, plan) == {}
    files.write_json(path, content)
    files.write_json(path.with_name("run.json"), {"key": plan.run("one3", 1).key})
    assert failures.unavailable(workspace, plan) == {}


def take(workspace: Workspace, step: steps.Step) -> None:
    """Write the outputs and the record of a step."""
    with records.recording(workspace, lambda: step):
        for path in step.outputs:
            files.write_text(path, path.name)


def test_what_is_made_without_a_run_is_stale(known: tuple[Workspace, Study]) -> None:
    """The record names the failure's record, so it differs from the plan, and belongs to this failure only."""
    workspace, plan = known
    lose(workspace, plan, "one3", 1)
    unavailable = list(failures.unavailable(workspace, plan).values())

    def problem(step: steps.Step) -> records.Problem | None:
        return records.check_step(workspace, step, Digests())

    without = steps.tables(workspace, plan, unavailable)
    take(workspace, without)
    assert problem(without) is None
    planned = problem(steps.tables(workspace, plan))
    assert planned
    assert planned.kind == "stale"
    inputs = {path.relative_to(workspace.root / "checkpoints/tiny").as_posix() for path in without.inputs[1:]}
    assert "train_one/one3/seed1/failure.json" in inputs
    assert not {name for name in inputs if "one3_to_5_split/seed1" in name}
    failures.write(workspace, plan, plan.run("one3", 1), TrainingFailed("no memory left", "out_of_memory"))
    assert problem(without) is not None


def test_partial_tables_are_not_recorded(known: tuple[Workspace, Study]) -> None:
    """Reports without failed runs are not recorded in DVC; the line says which runs and why."""
    workspace, plan = known
    report = steps.report(workspace, plan.name)
    for path in report.inputs:
        files.write_text(path, path.name)
    files.write_text(workspace.tables(plan.name) / "timing.csv", "timing")
    last = (report, steps.timing(workspace, plan.name))
    for step in last:
        take(workspace, step)
    assert "report" in record._sort(workspace, plan, Digests())[0]
    files.write_json(report.inputs[0], {"losses": [{"experiment": "one3", "seed": 1}]})
    for step in last:
        take(workspace, step)
    sound, refused = record._sort(workspace, plan, Digests())
    assert "report" not in sound
    assert refused[-1] == "tables, claims and report of tiny, which were made without one3/seed1"


# Claims --------------------------------------------------------------------------------------------


def test_claim_that_needs_a_failed_run_is_not_decided(known: tuple[Workspace, Study]) -> None:
    """The surviving runs do not decide it: it has no number, but the run's name; other claims are unchanged."""
    workspace, plan = known
    before = ledger_of(workspace)
    lose(workspace, plan, "one3_to_5_split", 2)
    after = ledger_of(workspace)
    found = {name for name, entry in after.items() if entry["verdict"] == "not decided"}
    assert {"split_over_parent/top1", "split_over_control/top5"} <= found
    for name, entry in after.items():
        if name in found:
            assert [entry[key] for key in ("estimate", "interval", "p", "p_holm", "n")] == [None] * 4 + [0]
            assert entry["note"] == "one3_to_5_split/seed2 failed"
            assert (entry["basis"], entry["survives_holm"]) == (None, None)
            assert "one3_to_5_split" in str(entry["parts"])
        elif not entry["missing"]:
            left = {key: value for key, value in entry.items() if key not in ("p_holm", "survives_holm")}
            assert left == {key: before[name][key] for key in left}


def test_failure_makes_no_other_claim_look_surer(known: tuple[Workspace, Study]) -> None:
    """Holm's correction still counts the undecided claims, so no corrected p value falls."""
    workspace, plan = known
    before = ledger_of(workspace)
    lose(workspace, plan, "one5", 0)
    after = ledger_of(workspace)
    compared = [name for name, entry in after.items() if entry["p_holm"] is not None]
    assert compared
    assert all(after[name]["p_holm"] >= before[name]["p_holm"] for name in compared)


def test_waiting_runs_are_named_with_what_they_need(known: tuple[Workspace, Study]) -> None:
    """A claim about a child of the failed run names both runs."""
    workspace, plan = known
    lose(workspace, plan, "one3", 1)
    note = ledger_of(workspace)["split_over_parent/top1"]["note"]
    assert "one3/seed1 failed" in note
    assert "one3_to_5_split/seed1 needs one3/seed1, which failed" in note


# The report ----------------------------------------------------------------------------------------

LOST = {("one3", 1), ("one5", 0), ("one5", 1)}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Tables and report of a study without one seed of an experiment, and without all seeds of another."""
    folder = tmp_path_factory.mktemp("damaged")
    there, left = synthetic.without(*synthetic.write_study(folder), LOST)
    tables.build(there, left, folder / "tables")
    entry = synthetic.claims()[-3]  # one without numbers
    words = {"verdict": "not decided", "missing": [], "note": "one3/seed1 failed"}
    entry |= words | {"parts": [entry["parts"][0] | {"verdict": "not decided"}]}
    files.write_json(folder / "claims.json", [*synthetic.claims()[:2], entry])
    return folder, content.compose(load(folder / "tables"))


def table(made_of: Report, name: str) -> dict[str, list[str]]:
    """Rows of a table as text, by their first cell; details are in brackets."""
    (found,) = [item for one in made_of.sections for item in one.items if isinstance(item, Table) and item.id == name]
    rows = [[f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row.cells] for row in found.rows]
    return {row[0].split(" (")[0]: row[1:] for row in rows}


def test_report_opens_with_what_failed(damaged: tuple[Path, Report]) -> None:
    """The report begins with each failed run, its reason, and the runs that were not made because of it."""
    _, made_of = damaged
    assert made_of.sections[0].id == "failed"
    assert "3 of 18 runs failed, and 5 that need them were not run." in made_of.limits[0]
    assert made_of.sections[0].sentences[0] in made_of.limits[0]
    rows = table(made_of, "failed-table")
    assert set(rows) == {f"{name}/seed{seed}" for name, seed in LOST}
    what, why, needing = rows["one3/seed1"]
    assert (what, why) == ("diverged", synthetic.REASON)
    assert needing.split(", ") == [f"{row.name}/seed1" for row in synthetic.ROWS if row.parent == "one3"]
    assert rows["one5/seed0"][2] == "–"


def test_failed_experiments_have_rows_that_say_so(damaged: tuple[Path, Report]) -> None:
    """With one seed left: `1 of 2: 1 failed`; with none: `failed` in every cell of the table of results."""
    _, made_of = damaged
    results = table(made_of, "results-table")
    assert results["one3"][1] == "1 (of 2: 1 failed)"
    assert results["one3_continued"][1] == "1 (of 2: 1 not run)"
    assert results["baseline"][1] == "2"
    assert results["one5"][1] == "0 (of 2: 2 failed)"
    assert results["one5"][3:] == ["failed"] * 5
    assert table(made_of, "growth-table")["one3_to_5_masked"][0] == "1 (of 2: 1 not run)"


def test_ledger_shows_what_was_not_decided(damaged: tuple[Path, Report]) -> None:
    """It has its own verdict and count, with the failed run and without a number."""
    _, made_of = damaged
    ledger = next(one for one in made_of.sections if one.id == "claims")
    assert "1 not decided" in ledger.sentences[0].lower()
    rows = [row.cells for item in ledger.items if item.kind == "table" and item.where == "page" for row in item.rows]
    (row,) = [row for row in rows if row[2].text.endswith("not decided")]
    assert "one3/seed1 failed" in row[1].detail
    assert row[3].text == "–"


@pytest.mark.slow
def test_page_and_pdf_are_made_without_failed_runs(damaged: tuple[Path, Report], tmp_path: Path) -> None:
    """Both name the run; the page has the same bytes each time."""
    folder, _ = damaged
    report.render(folder / "tables", tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "one3/seed1" in page
    assert 'id="failed"' in page
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.count("failed") > 12


def test_a_study_that_lost_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    """There is no key in `study.json`, no section and no fact about failures."""
    there, whole = synthetic.write_study(tmp_path, seeds=(0,))
    tables.build(there, whole, tmp_path / "tables")
    files.write_json(tmp_path / "claims.json", [])
    assert not {"losses", "unavailable"} & files.read_json(tmp_path / "tables" / "study.json").keys()
    made_of = content.compose(load(tmp_path / "tables"))
    assert "failed" not in [one.id for one in made_of.sections]


@pytest.mark.slow
@pytest.mark.parametrize("row", synthetic.ALL_PARTS, ids=lambda row: row.name)
def test_any_experiment_may_fail(tmp_path: Path, row: synthetic.Row) -> None:
    """If any row fails, in one seed or in all, tables, content and every figure can still be made."""
    there, whole = synthetic.write_study(tmp_path, rows=synthetic.ALL_PARTS)
    files.write_json(tmp_path / "claims.json", synthetic.claims())
    (seeds,) = [one["seeds"] for one in whole.experiments if one["name"] == row.name]
    for chosen in (seeds[:1], seeds):
        left = synthetic.without(there, whole, {(row.name, seed) for seed in chosen})
        tables.build(*left, tmp_path / "tables")
        loaded = load(tmp_path / "tables")
        made_of = content.compose(loaded)
        assert made_of.sections[0].id == "failed"
        for draw in content.drawings(loaded, made_of).values():
            draw()


# The workflow --------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> engines_fixture.Project:
    """A project without any training."""
    return engines_fixture.fresh(tmp_path / "project")


@pytest.mark.slow
def test_workflow_goes_on_and_reports_what_failed(project: engines_fixture.Project, tmp_path: Path) -> None:
    """One run diverges: others finish, the exit code is not 0, the report names it; after a fix no trace is left."""
    sound = project.copy(tmp_path / "sound" / "project")
    before = project.edit({"experiments": {"one3": {"training": {"optimizer": {"lr": 1e6}}}}})
    said = project.snakemake(fails=True).said
    assert "one3/seed0: " in said
    assert "training has diverged" in said
    assert "not recorded: tables, claims and report of tiny, which were made without one3/seed0" in said
    page = project.root / "reports" / "tiny" / "index.html"
    assert "one3_to_5_split_continued/seed0" in page.read_text()
    assert "training has diverged; lower training.optimizer.lr" in page.read_text()
    assert (project.root / "checkpoints/tiny/train_baseline/baseline/seed0/metrics.json").is_file()
    listed = project.coopnet("runs", engines_fixture.NAME).said
    assert "diverged" in listed
    assert listed.count("waiting for one3/seed0, which failed") == 2
    assert project.trained() == ["baseline/seed0", "one3/seed0"]
    assert "Nothing to be done" not in project.snakemake("-n").said  # the failed run is requested again
    results = project.results()
    project.snakemake(fails=True)
    assert project.results() == results
    assert project.trained() == ["one3/seed0"]
    project.revert(before)
    project.snakemake()
    sound.snakemake()
    assert project.results() == sound.results()
    project.assert_clean()


@pytest.mark.slow
def test_report_by_hand_and_then_dvc(project: engines_fixture.Project) -> None:
    """The commands make a report without failed runs; DVC then requests the failed run, and the report."""
    before = project.edit({"experiments": {"one3": {"training": {"optimizer": {"lr": 1e6}}}}})
    for experiment in ("one3", "baseline"):
        project.coopnet("train", engines_fixture.NAME, experiment, "0", fails=experiment == "one3")
    assert "metrics.json is missing" in project.coopnet("tables", engines_fixture.NAME, fails=True).said
    project.coopnet("evaluate", engines_fixture.NAME, "baseline", "0")
    for command in ("tables", "claims", "report", "timing"):
        project.coopnet(command, engines_fixture.NAME)
    page = project.root / "reports" / "tiny" / "index.html"
    assert "Runs that failed" in page.read_text()
    project.revert(before)
    project.make("dvc")
    assert "Runs that failed" not in page.read_text()
    project.assert_clean()
