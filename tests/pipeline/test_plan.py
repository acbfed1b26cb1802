"""Before and while a study runs: what it takes, how far it is, and how little Snakemake says of each job."""

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

from conftest import ROOT
from coopnet import study
from coopnet.commands import latency, watch
from coopnet.commands import plan as plans
from coopnet.runs import live, speed
from coopnet.runs.live import Live, Pulse
from coopnet.runs.store import VARIABLE, Store
from coopnet.runs.workspace import LATENCY, Workspace
from coopnet.study import costs
from finished_fixture import Home, made_once
from tiny_fixture import call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A finished study, and one whose runs were interrupted."""
    return made_once(tmp_path_factory).copy(tmp_path_factory.mktemp("copy"))


def test_plan_says_what_is_finished_and_what_the_rest_takes(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished runs cost nothing more; the time of the next study is estimated from them."""
    monkeypatch.setenv(VARIABLE, str(finished.root / "store"))
    done = plans.of(finished.workspace, finished.plan()).total
    assert (done.here, done.stored, done.left, done.training_flops) == (done.runs, 0, 0, 0)
    todo = plans.of(finished.workspace, finished.plan("unfinished"))
    total = todo.total
    assert (total.here, total.left) == (0, total.runs)
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

    pulse = Pulse(Other(), entries.unfinished("key"))
    pulse.begin(0, 4, 100, 0)
    pulse.advance(50)
    pulse.end(
        {"train_top1_ensemble": 30.0},
        {"images_per_second": 100.0, "train_seconds": 1.0, "evaluation_seconds": 0.5},
    )
    pulse.begin(1, 4, 100, 0)
    found = live.read(entries, "key")
    assert found is not None
    assert (found.epoch, found.epochs, found.speed, found.accuracy, found.split) == (1, 4, 100.0, 30.0, "training")
    assert found.left == pytest.approx(1.5 * 3)
    assert told == ["begin", "advance", "end", "begin"]
    pulse.close()
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
    assert len(watch.look(finished.workspace, finished.plan(), entries, set()).finished) == 3
    Pulse(type("Quiet", (), {"begin": lambda *_: None})(), entries.unfinished(first.key)).begin(2, 5, 100, 50)
    seen = watch.look(finished.workspace, plan, entries, set())
    assert [run.name for run, _ in seen.running] == [first.name]
    assert [run.name for run, epochs in seen.interrupted if epochs >= 0] == [second.name]
    assert next(iter(watch.table(plan, seen, 10).columns[1].cells)) == "running"
    assert watch.table(plan, seen, 1).row_count == 1
    shutil.rmtree(entries.unfinished(second.key))
    assert watch.look(finished.workspace, plan, entries, set()).waiting == [second]


def test_commands_speak(workspace: Path, tmp_path: Path) -> None:
    """`plan` and `runs --watch` of a study of which nothing was made, in a pipe, and what to do next."""
    store = str(tmp_path / "store")
    told = call(workspace, "coopnet", "plan", "tiny", store=store)
    assert told.returncode == 0, told.stderr
    for words in ("train_one", "estimate, not measured", "not known", "snakemake --cores", "--watch"):
        assert words in told.stdout
    seen = call(workspace, "coopnet", "runs", "tiny", "--watch", store=store)
    assert "waiting for one3/seed0" in " ".join(seen.stdout.split())


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
        found = plans.of(Workspace(ROOT), plan)
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
