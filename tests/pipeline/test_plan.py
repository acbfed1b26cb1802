"""Before and while a study runs: what it takes, how far it is, and how little Snakemake says of each job."""

import contextlib
import csv
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from conftest import ROOT
from coopnet import files, study
from coopnet.commands import check, latency, runs, watch
from coopnet.commands import plan as command
from coopnet.files.errors import CoopNetError
from coopnet.runs import live, phase_keys, speed, steps
from coopnet.runs.estimate import estimate
from coopnet.runs.live import Live, LiveWriter
from coopnet.runs.store import VARIABLE, Store
from coopnet.runs.workspace import LATENCY, Workspace
from coopnet.study import costs
from coopnet.study.phases import TRAINING
from finished_fixture import Home, made_once
from tiny_fixture import call, edit


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A finished study, and one whose runs were interrupted."""
    return made_once(tmp_path_factory).copy(tmp_path_factory.mktemp("copy"))


def test_plan_says_what_is_finished_and_what_the_rest_takes(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished runs cost nothing more; the time of the next study is estimated from them."""
    monkeypatch.setenv(VARIABLE, str(finished.root / "store"))
    done = estimate(finished.workspace, finished.plan()).total
    assert (done.finished, done.stored, done.left, done.training_flops) == (done.runs, 0, 0, 0)
    todo = estimate(finished.workspace, finished.plan("unfinished"))
    total = todo.total
    assert (total.finished, total.left) == (0, total.runs)
    assert todo.measured == "runs"
    assert total.seconds > 0
    assert total.h100 > 0


def test_speed_is_what_the_timings_of_the_store_say(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of a training image, times images a second; of another machine's runs nothing is taken."""
    entries, plan = finished.store, finished.plan()
    found = speed.finished_here(entries, "cpu")
    trained = [run for run in plan.runs.values() if run.row.training.epochs]
    assert len(found) >= len(trained)
    (epoch, *_) = csv.DictReader((entries.folder(trained[0].key) / "timing.csv").open())
    network = costs.network(trained[0].row.model, trained[0].dataset.classes, trained[0].dataset.size)
    assert network is not None
    rates = [one.flops_per_second for one in found if one.image_flops == network.layers.flops]
    assert any(
        math.isclose(rate, network.step_flops * float(epoch["images_per_second"]), rel_tol=0.9) for rate in rates
    )
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert speed.finished_here(entries, "cpu") == []


def test_measurement_keeps_the_others(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other machines and of other devices stay; an earlier one of the same kind is replaced."""
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    elsewhere = {"elsewhere": [["cpu", "x", "fp32", 1, 1, 1.0]]}
    gpu = ["cuda", "y", "bf16", 1, 1, 2.0]
    path = finished.workspace.stamps / "speed.json"
    files.write_json(path, elsewhere | {platform.node(): [gpu]})
    for _ in range(2):
        found = speed.measure(finished.workspace, finished.plan())
        assert files.read_json(path) == elsewhere | {platform.node(): [gpu, list(found)]}
    assert speed.remembered(finished.workspace, "cpu") == [found]


def test_only_cores_of_this_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """`taskset`, Slurm and containers may leave a process fewer cores than the machine has."""
    found = estimate(Workspace(ROOT), study.load(ROOT, "demo"))
    for cores in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        monkeypatch.setattr(sys, "platform", "linux")
        assert found.at_once == cores // found.study.threads
        assert f"--cores {cores} " in " ".join(command._notes(found))


def test_bytes_are_those_of_the_files(finished: Home) -> None:
    """The disk that a plan names is what the runs then take, within a twentieth and some records."""
    for run in finished.plan().everything():
        folder = finished.workspace.run(finished.plan(), run)
        written = sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors")
        cost = costs.cost(run)
        assert cost is not None
        assert abs(written - cost.disk) < 0.05 * cost.disk + 50_000, run.name


def test_a_run_that_is_trained_is_seen(tmp_path: Path) -> None:
    """Epoch, images a second, accuracy and time left, of a process that lives; nothing of one that is gone."""
    entries, told = Store(tmp_path), []

    class Other:
        def __getattr__(self, name: str) -> object:
            return lambda *arguments: told.append(name)

    writer = LiveWriter(Other(), entries.unfinished("key"))
    writer.begin(0, 4, 100, 0)
    writer.advance(50)
    writer.end(
        {"train_top1_ensemble": 30.0},
        {"images_per_second": 100.0, "train_seconds": 1.0, "evaluation_seconds": 0.5},
    )
    writer.begin(1, 4, 100, 0)
    found = live.read(entries, "key")
    assert found is not None
    assert (found.epoch, found.epochs, found.speed, found.accuracy, found.split) == (1, 4, 100.0, 30.0, "training")
    assert found.left == pytest.approx(1.5 * 3)
    assert told == ["begin", "advance", "end", "begin"]
    writer.close()
    assert live.read(entries, "key") is None


def test_a_dead_process_trains_nothing(tmp_path: Path) -> None:
    """A killed process of this machine is seen at once, one of another machine after some minutes of silence."""
    entries = Store(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for host, pid, age, alive in (
        (platform.node(), child.pid, 0.0, False),
        (platform.node(), os.getpid(), 0.0, True),
        ("elsewhere", 1, live.SILENT / 2, True),
        ("elsewhere", 1, live.SILENT * 2, False),
    ):
        said = Live(host, pid, 0, 1, 0.0, 0.0, None, "test", None, time.time() - age)
        path = entries.unfinished("key") / live.NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"live": said._asdict()}))
        assert (live.read(entries, "key") is not None) is alive, (host, age)
    path.write_text('{"live": {"host": 1}}')
    assert live.read(entries, "key") is None


def test_watch_shows_every_state(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished, running, interrupted and waiting runs, from the store alone; in a pipe once."""
    plan, entries = finished.plan("unfinished"), finished.store
    first, second = plan.runs.values()
    assert len(watch.progress_of(finished.workspace, finished.plan(), entries, set()).finished) == 3
    LiveWriter(type("Quiet", (), {"begin": lambda *_: None})(), entries.unfinished(first.key)).begin(2, 5, 100, 50)
    seen = watch.progress_of(finished.workspace, plan, entries, set())
    assert [run.name for run, _ in seen.running] == [first.name]
    assert [run.name for run, epochs in seen.interrupted if epochs >= 0] == [second.name]
    assert next(iter(watch.table(plan, seen, 10).columns[1].cells)) == "running"
    assert watch.table(plan, seen, 1).row_count == 1
    shutil.rmtree(entries.unfinished(second.key))
    assert watch.progress_of(finished.workspace, plan, entries, set()).waiting == [second]


def test_commands_speak(workspace: Path, tmp_path: Path) -> None:
    """`plan` and `runs --watch` of a study of which nothing was made, in a pipe, and what to do next."""
    store = str(tmp_path / "store")
    told = call(workspace, "coopnet", "plan", "tiny", store=store)
    assert told.returncode == 0, told.stderr
    for words in ("train_one", "estimate, not measured", "not known", "snakemake --cores", "--watch"):
        assert words in told.stdout
    seen = call(workspace, "coopnet", "runs", "tiny", "--watch", store=store)
    assert "waiting for one3/seed0" in " ".join(seen.stdout.split())


def test_terminal_without_our_letters_shows_others(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is not UTF-8 gets question marks instead of a traceback."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    told = call(workspace, "coopnet", "plan", "tiny")
    assert told.returncode == 0, told.stderr
    assert "train_one" in told.stdout
    assert "?" in told.stdout


def test_snakemake_says_a_line_of_each_job(workspace: Path) -> None:
    """A job is a line with its phase and its run, without paths; what all will take is said before."""
    done = call(workspace, "snakemake", "--dry-run", "--cores", "2", "--config", "study=tiny")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    plan = study.load(workspace, "tiny")
    for run in plan.everything():
        assert f"{run.phase}_run: {run.experiment}/seed{run.seed} (threads: {run.threads}, GPUs: 0)" in said
    assert "checkpoints/" not in said
    assert "on one H100 (estimated)" in said


def test_plan_of_every_study_adds_up() -> None:
    """Each network of each study is in one phase."""
    for name in study.names(ROOT):
        plan = study.load(ROOT, name)
        found = estimate(Workspace(ROOT), plan)
        assert found.total.runs == len(list(plan.everything()))


def test_answer_is_what_the_report_found() -> None:
    """The findings of the committed report as plain text, and the path of the page."""
    for report in sorted((ROOT / "reports").glob("*/report.md")):
        told = call(ROOT, "coopnet", "answer", report.parent.name)
        assert told.returncode == 0, told.stderr
        lines = told.stdout.splitlines()
        assert lines[-1].startswith(f"The report: reports/{report.parent.name}/index.html")
        found = [line for line in report.read_text(encoding="utf-8").splitlines() if line.startswith("- **")]
        answers = lines[:-1]
        assert answers
        for line, answer in zip(found, answers, strict=False):
            assert re.sub(r"\W", "", line) == re.sub(r"\W", "", answer)
        assert "\\" not in told.stdout


def test_latency_is_measured_without_any_run(workspace: Path) -> None:
    """Every experiment of a study, on a named machine, for one image and for 64, in a separate file."""
    latency.measure(Workspace(workspace), "tiny")
    with (Workspace(workspace).tables("tiny") / LATENCY).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["experiment"] for row in rows] == list(study.load(workspace, "tiny").experiments)
    for row in rows:
        assert float(row["batch_1_ms"]) > 0
        assert float(row["batch_64_ms"]) > 0
        assert row["machine"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("prepare", "digits", "--out", "digits"), "next: `coopnet plan STUDY`"),
        (("train", "tiny", "one3", "0"), "next: `coopnet evaluate tiny one3 0`"),
        (("train", "tiny", "one3", "0", "--evaluate"), "metrics.json has its metrics"),
    ],
)
def test_a_command_says_where_to_look_next(workspace: Path, command: tuple[str, ...], words: str) -> None:
    """The last line of its output."""
    done = call(workspace, "coopnet", *command)
    assert done.returncode == 0, done.stderr
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("trunk", "split", "words"),
    [
        ("first", "layer4.1", None),
        ("refit", "layer4", None),
        ("refit", "layer4.1", "experiments.merged: trunk refit needs branches that read their trunk by plain"),
        ("matched", "layer4", "experiments.merged: trunk matched knows the channels of this project's"),
    ],
)
def test_merge_of_a_library_network_is_checked(tmp_path: Path, trunk: str, split: str, words: str | None) -> None:
    """A merge that its network does not allow is refused before its parents are trained."""
    place = merging(tmp_path, trunk, split)
    with pytest.raises(CoopNetError, match=words) if words else contextlib.nullcontext():
        check.check(place, "full")


def merging(folder: Path, trunk: str, split: str) -> Workspace:
    """A study that merges networks of torchvision, with complete rows and without defaults."""
    network = {"family": "torchvision", "name": "resnet18", "split": split, "branches": 1, "gate": "none"}
    training = {"epochs": 1, "optimizer": {"kind": "sgd", "lr": 0.1}}
    row = {"about": "a row", "data": {"dataset": "digits"}, "model": network, "training": training}
    joined = {"model": network | {"branches": 2, "gate": "learned"}, "start": {"kind": "merge", "trunk": trunk}}
    content = {
        **{"title": "T", "device": "cpu", "threads": 1, "seeds": [0]},
        "experiments": {"a": row, "b": row, "merged": row | joined | {"parents": ["a", "b"]}},
    }
    (folder / "params.yaml").write_text(json.dumps(content))
    for name in ("claims.yaml", "figures.yaml"):
        (folder / name).write_text("{}")
    return Workspace(folder)


def test_runs_of_a_library_network_without_defaults(
    tmp_path: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`coopnet runs` names the settings that most rows do not have; `coopnet runs gc` names the library's network."""
    place = merging(tmp_path, "first", "layer4")
    runs.show(place, "full")
    shown = capsys.readouterr().out
    differ = {name: re.search(rf"{name}/seed0 +missing +(\S+)", shown) for name in ("a", "merged")}
    assert differ["merged"] is not None
    assert differ["merged"][1] == "model.branches=2"
    assert "=" not in (differ["a"] or [""])[0]
    assert {"model.gate=learned", "start.kind=merge"} <= set(shown.split())
    unknown = own_store / "runs" / ("0" * 32)
    unknown.mkdir(parents=True)
    row = study.load(tmp_path).experiments["merged"].model_dump(mode="json")
    (unknown / "run.json").write_text(json.dumps({"row": row, "seed": 0}))
    runs.collect_garbage(place, remove=False)
    assert "resnet18, 2 branches, 1 epochs, seed 0" in capsys.readouterr().out


# The files by which DVC knows which phases were edited


def written(workspace: Path) -> dict[str, bytes]:
    """What `coopnet plan tiny --write` writes, by phase."""
    command.write(Workspace(workspace), "tiny")
    return {path.stem: path.read_bytes() for path in (workspace / "checkpoints" / "tiny" / "plan").iterdir()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """The phases whose files differ."""
    assert before.keys() == after.keys() == {*TRAINING, "tables"}
    return {phase for phase in after if after[phase] != before[phase]}


@pytest.mark.parametrize(
    ("changes", "phases"),
    [
        ({"experiments": {"one3_to_5_split": {"training": {"optimizer": {"lr": 0.02}}}}}, {"finetune", "tables"}),
        ({"experiments": {"one3": {"training": {"batch_size": 40}}}}, {"train_one", "transfer", "finetune", "tables"}),
        ({"only": ["one3", "one3_continued", "one3_to_5_masked"]}, {"transfer", "finetune", "tables"}),
        ({"title": "Another title"}, {"tables"}),
        ({"seeds": [0, 1]}, {"train_one", "transfer", "finetune", "tables"}),
    ],
)
def test_edit_changes_the_files_of_its_phase_and_its_descendants(
    workspace: Path, changes: dict[str, object], phases: set[str]
) -> None:
    """All other phases keep their files, so DVC does not ask them; the edit taken back gives the old files."""
    before = written(workspace)
    text = (workspace / "studies" / "tiny.yaml").read_text()
    edit(workspace, lambda overlay: overlay.update(study.merge(overlay, changes)))
    assert changed(before, written(workspace)) == phases
    (workspace / "studies" / "tiny.yaml").write_text(text)
    assert written(workspace) == before


def test_words_change_no_file(workspace: Path) -> None:
    """A comment in the parameters, and a row that the study does not have; a right file keeps its date."""
    before = written(workspace)
    dates = [path.stat().st_mtime_ns for path in sorted((workspace / "checkpoints").rglob("*.json"))]
    with (workspace / "params.yaml").open("a") as parameters:
        parameters.write("# A comment.\n  another: {about: one more, model: {branches: 1, gate: none}}\n")
    assert "another" in study.rows(workspace)
    assert written(workspace) == before
    assert [path.stat().st_mtime_ns for path in sorted((workspace / "checkpoints").rglob("*.json"))] == dates


@pytest.mark.parametrize(("line", "phases"), [("# A comment.", set()), ("ADDED = 1", set(TRAINING))])
def test_source_of_the_evaluation_changes_what_is_evaluated(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, phases: set[str]
) -> None:
    """Another statement asks for every phase that evaluates, and for the reports; a comment asks for none."""
    before, reported = written(workspace), steps.fingerprint("reporting")
    package = tmp_path / "coopnet"
    shutil.copytree(steps.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "evaluation" / "metrics.py").open("a") as module:
        module.write(f"\n\n{line}\n")
    monkeypatch.setattr(steps, "PACKAGE", package)
    steps.fingerprint.cache_clear()
    try:
        assert changed(before, written(workspace)) == phases
        assert (steps.fingerprint("reporting") != reported) == bool(phases)
    finally:
        steps.fingerprint.cache_clear()


def test_files_of_another_plan_are_noticed(workspace: Path) -> None:
    """Missing, of edited parameters, or damaged: not those of the plan, until they are written again."""
    place = Workspace(workspace)
    plan = study.load(workspace, "tiny")
    assert not phase_keys.are_written(place, plan)
    command.write(place, "tiny")
    assert phase_keys.are_written(place, plan)
    edit(workspace, lambda overlay: overlay.update(title="Another title"))
    assert not phase_keys.are_written(place, study.load(workspace, "tiny"))
    for damage in (b"", b"\xff", None):
        path = place.phase_keys("tiny", "finetune")
        path.write_bytes(damage) if damage is not None else path.unlink()
        assert not phase_keys.are_written(place, plan)
        command.write(place, "tiny")
        assert phase_keys.are_written(place, study.load(workspace, "tiny"))


def test_edit_while_the_plan_is_written_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC would record the edited parameters for the files of the earlier ones."""
    write_files = phase_keys.write

    def edited(place: Workspace, plan: study.Study) -> None:
        write_files(place, plan)
        edit(workspace, lambda overlay: overlay.update(seeds=[0, 1]))

    monkeypatch.setattr(phase_keys, "write", edited)
    with pytest.raises(CoopNetError, match="edited while its plan was written"):
        command.write(Workspace(workspace), "tiny")


def test_tables_fit_into_80_columns(
    finished: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`runs`, `runs --watch` and `plan` in a terminal of 80 columns: no state, number or key is broken or left out."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    workspace, plan = Workspace(ROOT), study.load(ROOT, "full")
    runs.show(finished.workspace, "unfinished")
    command.show(workspace, "full")
    run = next(iter(plan.runs.values()))
    now = Live("a-long-name-of-a-host", 123456, 12, 300, 0.5, 12345.0, 71.23, "training", 45296.0, time.time())
    progress = watch.Progress([], [(run, now)], [], [(run, 12)], [run])
    Console(width=80).print(watch.table(plan, progress, 10))
    told = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    for one in finished.plan("unfinished").runs.values():
        assert any(one.key[:8] in line.split() and one.key not in line for line in lines)
    found = estimate(workspace, plan)
    cells = [cell for phase in found.phases.values() for cell in command._cells(phase, found)]
    for whole in ("interrupted,", "running", "12.5/300", "12345", "12:34:56", "12/300", *cells):
        assert whole in told, whole
