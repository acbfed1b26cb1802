"""A quarter of an hour on a GPU: tests, choice of runs, results that are brought back, and shared devices."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bundle, gpu, sharing
from benchmarks.gpu import Job, Pace
from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.runs.stop import TIME_IS_UP
from tiny_fixture import edit


def test_exit_codes_are_those_of_training() -> None:
    """The script is imported before the package is available, so it has its own copy of the number."""
    assert gpu.TIME_IS_UP == TIME_IS_UP


# Part A


def junit(path: Path, **outcomes: str) -> Path:
    """A JUnit report with these results: passed, failure or skipped, by mode."""
    inside = {"passed": "", "failure": "<failure/>", "error": "<error/>", "skipped": "<skipped/>"}
    cases = "".join(
        f'<testcase name="test_gpu[{mode}-kind0-bf16]">{inside[o]}</testcase>' for mode, o in outcomes.items()
    )
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


@pytest.mark.parametrize(
    ("outcomes", "mode", "failed", "recorded"),
    [
        ({"graph": "passed", "fp32": "passed"}, "graph", 0, "graph"),
        ({"graph": "passed", "fp32": "passed"}, "serial", 1, "serial"),  # a network of the study cannot be recorded
        ({"graph": "passed", "fp32": "passed"}, "eager", 2, "none"),
        ({"graph": "passed", "fp32": "failure"}, "graph", 1, "graph"),  # the studies for GPUs train in bf16
        ({"graph": "failure", "serial": "passed", "fp32": "passed"}, "serial", 1, "serial"),
        ({"graph": "error", "serial": "failure", "fp32": "failure"}, "eager", 3, "none"),
        ({"graph": "skipped", "serial": "passed", "fp32": "skipped"}, "serial", 0, "serial"),
        ({"serial": "passed"}, "serial", 2, "serial"),  # a process that hung and was killed leaves no report
        ({}, "eager", 3, "none"),
    ],
)
def test_fastest_mode_whose_tests_passed_is_taken(
    outcomes: dict[str, str], mode: str, failed: int, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mode without a passed test, or with a failed one, is not used; the next one is tried only then."""
    tried: list[str] = []

    def run(self: gpu.Slice, *command: str, environment: dict[str, str], **options: object) -> int:
        (path,) = [Path(word.partition("=")[2]) for word in command if word.startswith("--junitxml=")] or [Path("none")]
        kind = path.stem.removeprefix("gpu_tests_")
        tried.append(kind)
        if kind in outcomes:
            junit(path, **{kind: outcomes[kind]})
        if "benchmarks.speed" in command and environment["COOPNET_LAUNCH"] in ("eager", recorded):
            Path(command[-1], "speed.json").write_text("{}")
        return 0

    monkeypatch.setattr(gpu.Slice, "run", run)
    monkeypatch.setattr(gpu, "ready", lambda: dict(os.environ))
    monkeypatch.setattr(gpu, "describe", lambda path, environment: None)
    monkeypatch.setattr(gpu, "FIRST", tmp_path / "first.json")
    assert gpu.a(tmp_path / "out", "cuda", 60, 128, 10, 1) == 1
    summary = json.loads((tmp_path / "first.json").read_text())
    assert (summary["launch"], len(summary["failed_tests"])) == (mode, failed)
    tests = [kind for kind in tried if kind != "none"]
    assert tests == ["graph", "serial", "fp32"][:: 2 if outcomes.get("graph") == "passed" else 1]


def test_gpu_tests_are_chosen_by_mode_and_precision(tmp_path: Path) -> None:
    """Each is in one of the choices, and the one that no launch mode concerns is with the fastest mode."""
    chosen = []
    for _, choice, _ in gpu.TESTS:
        command = [
            sys.executable,
            *gpu.test_command(tmp_path / "none.xml", choice),
            "--collect-only",
            "-qq",
            "-o",
            "addopts=",
        ]
        listed = subprocess.run(command, cwd=gpu.FOLDER, capture_output=True, text=True)
        chosen.append(int(listed.stdout.strip().rpartition(": ")[2]))
    assert chosen == [10, 9, 9]


def test_tests_under_way_do_not_count(tmp_path: Path) -> None:
    """Stopped by SIGINT, pytest reports those that ended, and the others without a name."""
    path = tmp_path / "tests.xml"
    path.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name=""><error/></testcase></testsuite></testsuites>'
    )
    assert gpu.outcome(path) == (True, [])
    path.write_text('<testsuites><testsuite><testcase name=""><error/></testcase></testsuite></testsuites>')
    assert gpu.outcome(path) == (False, ["no test of tests.xml finished"])


# Choice and order of runs

SUMMARY: dict[str, Any] = {
    "speed": {
        "models": {
            name: {"branches": b, "images_per_second": speed, "evaluation_seconds": 0.5}
            for name, b, speed in (("baseline", 1, 50_000.0), ("one3", 3, 25_000.0), ("one5", 5, 20_000.0))
        }
    },
    "sharing": {"ways": {"mps": {"runs": {"1": {"ratio": 1.0}, "3": {"ratio": 2.0}}}}},
}


def test_pace_is_what_part_a_measured() -> None:
    """50,000 images: 1.5, 2.5 and 3 s per epoch, interpolated in between, and 1.5 times as long with three runs."""
    pace = Pace.read(SUMMARY)
    assert [pace.epoch(b, 50_000) for b in (1, 2, 3, 4, 5, 7)] == pytest.approx([1.5, 2.0, 2.5, 2.75, 3.0, 3.5])
    assert (pace.lanes, pace.way, pace.slowdown(3), pace.slowdown(1)) == (3, "mps", 1.5, 1.0)
    alone = Pace.read(SUMMARY | {"sharing": {"ways": {"turns": {"error": "no"}}}})
    assert (alone.lanes, alone.slowdown(1)) == (1, 1.0)


JOBS = [
    Job("one3", frozenset(), 100),
    Job("baseline", frozenset(), 60),
    Job("child", frozenset({"one3"}), 30),
    Job("last", frozenset(), 10),
]


@pytest.mark.parametrize(
    ("seconds", "lanes", "slowdown", "ended"),
    [
        (99, 1, 1.0, "baseline last"),
        (150, 1, 1.0, "one3 child last"),  # after one3 there is no time for the baseline
        (200, 1, 1.0, "one3 baseline child last"),
        (150, 2, 1.5, "one3 baseline last"),  # the child would end at 195
        (149, 2, 1.5, "baseline last"),
        (195, 2, 1.5, "one3 baseline child last"),
    ],
)
def test_what_can_be_finished(seconds: float, lanes: int, slowdown: float, ended: str) -> None:
    """By hand: jobs begin in order of importance, if they can end in time, children after their parents."""
    flags = gpu.finishing(JOBS, set(), seconds, lanes, slowdown)
    assert [job.key for job, flag in zip(JOBS, flags, strict=True) if flag] == ended.split()


def test_worthiest_runs_decide_how_many_are_made_at_once() -> None:
    """Three in parallel only if the first is still finished, and only if more runs are."""
    pace = Pace.read(SUMMARY)
    assert gpu.best_lanes(JOBS, set(), 149, pace) == 1  # at 1.5 times its length one3 would not be done
    assert gpu.best_lanes(JOBS, set(), 195, pace) == 3
    assert gpu.best_lanes(JOBS[:1], set(), 1000, pace) == 1


def test_jobs_are_begun_if_they_can_end_and_the_last_one_in_any_case() -> None:
    """Children of a failed job are not tried; a job that cannot be finished is begun once, for its state."""
    begun: list[str] = []

    class Clock(gpu.Slice):
        """A clock that is set by hand."""

        def __init__(self) -> None:
            self.now = 230.0 + gpu.RESERVE

        @property
        def left(self) -> float:
            """Seconds."""
            return self.now

    clock = Clock()

    def make(job: Job) -> int:
        begun.append(job.key)
        clock.now -= min(job.seconds, clock.now - gpu.RESERVE)
        return {"one3": 1}.get(job.key, 0) if clock.now > gpu.RESERVE else TIME_IS_UP

    long = Job("long", frozenset(), 500)
    assert gpu.work_off(clock, [long, *JOBS], set(), 1, 1.0, make) == ["one3"]
    assert begun == ["one3", "baseline", "last", "long"]


def test_runs_come_in_order_of_worth() -> None:
    """In the full study: three branches, the plain network, growth, seed by seed, then merges."""
    everything = gpu.in_order_of_worth(study.load(gpu.FOLDER))
    made: set[str] = set()
    for run in everything:
        assert {source.key for source in run.sources} <= made, run.name
        made.add(run.key)
    runs = [(run.experiment, run.seed) for run in everything if not run.at_transfer]
    first = [(name, seed) for seed in (0, 1, 2) for name in gpu.WORTH]
    assert runs[: len(first)] == first
    assert len(set(runs)) == len(runs) > len(first)


@pytest.fixture
def place(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that the script uses as its own, with a network and its control."""
    for module, name in ((gpu, "FOLDER"), (bundle, "ROOT")):
        monkeypatch.setattr(module, name, workspace)
    monkeypatch.setattr(gpu, "FIRST", workspace / "results" / "bench" / "gpu_first.json")
    edit(workspace, lambda tiny: tiny.update(only=["one3", "one3_continued"]))
    return workspace


def test_unfinished_runs_need_less(place: Path, tmp_path: Path) -> None:
    """Finished epochs are not counted again, and damaged state counts as nothing."""
    plan, pace = study.load(place, "tiny"), Pace.read(SUMMARY)
    jobs, finished = gpu.jobs_of(plan, pace, tmp_path)
    run = plan.run("one3", 0)
    assert (jobs[0].key, jobs[1].parents, finished) == (run.key, frozenset({run.key}), set())
    folder = tmp_path / "unfinished" / run.key / "abc"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"facts": {"epoch": 1}}))
    (tmp_path / "unfinished" / run.key / "damaged").mkdir()
    (tmp_path / "unfinished" / run.key / "damaged" / "state.json").write_text("{")
    epoch = pace.epoch(run.row.model.branches, run.row.data.training_subset or 0)
    assert jobs[0].seconds - gpu.jobs_of(plan, pace, tmp_path)[0][0].seconds == pytest.approx(epoch)


def test_part_b_makes_runs_and_what_comes_back_goes_in_place(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real runs on the CPU are packed and unpacked elsewhere, where nothing is left to train."""
    gpu.FIRST.parent.mkdir(parents=True)
    summary = SUMMARY | {"launch": "serial", "sharing": None}
    gpu.FIRST.write_text(json.dumps(summary))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(gpu, "ready", lambda: dict(os.environ))
    assert gpu.b(tmp_path / "out", 300, "tiny", tmp_path) == 0
    assert (tmp_path / "out" / "runs.log").is_file()
    home, store = tmp_path / "home", tmp_path / "home-store"
    home.mkdir()
    names = bundle.bring_back(tmp_path / "out", home, store)
    assert "results/bench/gpu_first.json" in names
    assert not [name for name in names if name.startswith("results/") and Path(name).name in bundle.LARGE]
    plan = study.load(place, "tiny")
    for run in plan.runs.values():
        assert (home / "checkpoints/tiny" / run.phase / run.experiment / "seed0" / "metrics.json").is_file()
        assert (store / "runs" / run.key / "logits.safetensors").is_file()
    monkeypatch.setattr(gpu, "FOLDER", home)
    shutil.copytree(place / "studies", home / "studies")
    shutil.copy(place / "params.yaml", home)
    assert gpu.jobs_of(study.load(home, "tiny"), Pace.read(summary), store)[0] == []


# Bundles


def items(folder: Path, **sizes: int) -> dict[str, bundle.Item]:
    """Files of random bytes, which cannot be compressed, in a folder."""
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(os.urandom(size))
    return {name: bundle.Item(folder / name, f"results/{name}") for name in sizes}


def test_bundles_are_no_larger_than_allowed(tmp_path: Path) -> None:
    """Files stay in order, and a new bundle begins when the next file does not fit."""
    made = items(tmp_path / "files", a=50_000, b=30_000, c=60_000, d=100)
    bundles = bundle.packed(made.values(), 100_000)
    assert [[item.path.name for item in one] for one in bundles] == [["a", "b"], ["c", "d"]]
    for one in bundles:
        with tarfile.open(tmp_path / "one.tar", "w") as tar:
            for item in one:
                tar.add(item.path, item.name)
        assert (tmp_path / "one.tar").stat().st_size <= 100_000
    with pytest.raises(SystemExit, match="alone is larger than"):
        bundle.packed(made.values(), 50_000)


def test_what_is_sent_back_is_cut_into_parts_and_put_together(tmp_path: Path) -> None:
    """The bytes are the same, in parts of the allowed size; a group that does not fit is named, later ones may fit."""
    made = items(tmp_path / "files", a=150_000, b=200_000, c=900_000, d=10_000)
    stored = [bundle.Item(made["d"].path, "store/runs/key/d")]
    left = bundle.send_back(tmp_path / "out", [[made["a"], made["b"]], [made["c"]], stored], part=100_000, parts=6)
    assert len(left) == 1
    assert left[0].startswith("results/c and 0 other files")
    parts = sorted((tmp_path / "out").glob("results.tar.gz.*"))
    assert [part.name for part in parts] == [f"results.tar.gz.{i:02}" for i in range(4)]
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert max(part.stat().st_size for part in parts) == 100_000
    bundle.bring_back(tmp_path / "out", tmp_path / "home", tmp_path / "store")
    for name, path in {"a": "home/results/a", "b": "home/results/b", "d": "store/runs/key/d"}.items():
        assert (tmp_path / path).read_bytes() == made[name].path.read_bytes()
    parts[3].unlink()
    with pytest.raises(SystemExit, match=r"does not have results\.parts and all parts that it counts"):
        bundle.bring_back(tmp_path / "out", tmp_path / "home", tmp_path / "store")


def test_what_is_sent_back_replaces_what_was_sent_before(tmp_path: Path) -> None:
    """Fewer parts leave none of the earlier ones behind; a call that fails leaves the earlier ones whole."""
    made = items(tmp_path / "files", a=150_000, b=20_000)
    bundle.send_back(tmp_path / "out", [[made["a"], made["b"]]], part=100_000, parts=6)
    gone = bundle.Item(tmp_path / "gone", "results/gone")
    with pytest.raises(FileNotFoundError):
        bundle.send_back(tmp_path / "out", [[made["b"]], [gone]], part=100_000, parts=6)
    assert bundle.bring_back(tmp_path / "out", tmp_path / "home", tmp_path / "store") == ["results/a", "results/b"]
    bundle.send_back(tmp_path / "out", [[made["b"]]], part=100_000, parts=6)
    assert bundle.bring_back(tmp_path / "out", tmp_path / "home", tmp_path / "store") == ["results/b"]


def test_what_came_back_writes_nowhere_else(tmp_path: Path) -> None:
    """A path outside the checkout is refused."""
    made = items(tmp_path / "files", a=10)
    bundle.send_back(tmp_path / "out", [[bundle.Item(made["a"].path, "../escaped")]])
    with pytest.raises(tarfile.OutsideDestinationError):
        bundle.bring_back(tmp_path / "out", tmp_path / "home", tmp_path / "store")
    assert not (tmp_path / "escaped").exists()


# Time, and shared devices


def test_what_outlives_its_slice_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command gets SIGTERM and time to clean up, and the result says that time is up."""
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    script = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("cleaned").touch()
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""
    piece = gpu.Slice(gpu.GRACE + 3)
    assert piece.run("-c", script) == TIME_IS_UP
    assert (tmp_path / "cleaned").exists()
    assert piece.left > 0


def test_mps_is_taken_where_its_program_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU with the MPS program: first MPS, then turns; otherwise turns only."""
    cuda, cpu = sharing.torch.device("cuda"), sharing.torch.device("cpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sharing.ways_on(cuda) == ["turns"]
    program = tmp_path / sharing.CONTROL
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    assert sharing.ways_on(cuda) == ["mps", "turns"]
    assert sharing.ways_on(cpu) == ["turns"]


def test_runs_take_turns_where_the_service_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line gives the reason, and the work continues."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with sharing.shared("mps") as environment:
        assert "CUDA_MPS_PIPE_DIRECTORY" not in environment
    assert capsys.readouterr().out == "nvidia-cuda-mps-control is not installed here; runs take turns\n"


def test_first_way_that_works_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --best-way turns are measured only if MPS is not available."""
    monkeypatch.setattr(sharing, "ways_on", lambda device: ["mps", "turns"])
    monkeypatch.setattr(sharing.signal, "signal", lambda *asked: None)
    for works, tried in ((True, ["mps"]), (False, ["mps", "turns"])):

        def measure(way: str, *asked: object, works: bool = works) -> dict[str, object]:
            if way == "mps" and not works:
                raise CoopNetError("no mps")
            return {"runs": {}, "bits": ["a"]}

        monkeypatch.setattr(sharing, "measure", measure)
        sharing.main(device="cpu", counts="1", out=tmp_path / f"{works}.json", best_way=True)
        assert list(json.loads((tmp_path / f"{works}.json").read_text())["ways"]) == tried


def measured(**speeds: float) -> dict[str, object]:
    """A result of sharing with two parallel runs, by way."""
    return {
        "ways": {
            way: {"runs": {"2": {"images_per_second": {"median": speed}}}, "bits": ["a"]} if speed else {"error": "no"}
            for way, speed in speeds.items()
        }
    }


def test_ways_to_share_are_measured_once_each(tmp_path: Path) -> None:
    """Earlier measurements are kept while a way is missing, unless settings differ."""
    path, settings, ways = tmp_path / "sharing.json", {"repetitions": 2}, ["turns", "mps"]
    assert sharing.unfinished(path, settings, ways) == {}
    path.write_text(json.dumps(settings | measured(turns=1.0) | {"same_bits": True}))
    assert sharing.unfinished(path, settings, ways) == measured(turns=1.0)["ways"]
    assert sharing.unfinished(path, {"repetitions": 3}, ways) == {}
    path.write_text(json.dumps(settings | measured(turns=1.0, mps=2.0) | {"same_bits": True}))
    assert sharing.unfinished(path, settings, ways) == {}


def test_what_failed_is_not_taken_for_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that fail in turns end the measurement without a result; a missing service is only noted."""
    tried: list[str] = []

    def measure(way: str, *asked: object) -> dict[str, object]:
        tried.append(way)
        if way in failing:
            raise CoopNetError(f"no {way}")
        return {"runs": {}, "bits": ["a"]}

    monkeypatch.setattr(sharing, "measure", measure)
    monkeypatch.setattr(sharing, "ways_on", lambda device: ["turns", "mps"])
    monkeypatch.setattr(sharing.signal, "signal", lambda *asked: None)  # the tests keep their own
    failing, out = {"turns"}, tmp_path / "sharing.json"
    with pytest.raises(SystemExit, match="error: no turns"):
        sharing.main(device="cpu", counts="1", out=out)
    assert not out.exists()
    failing = {"mps"}
    sharing.main(device="cpu", counts="1", out=out)
    assert json.loads(out.read_text())["ways"]["mps"] == {"error": "no mps"}
    assert tried == ["turns", "turns", "mps"]


def test_runs_that_never_answer_are_ended() -> None:
    """MPS may leave its clients waiting forever."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with worker, pytest.raises(CoopNetError, match="failed while it was measured"):
        sharing._expect([worker], sharing.TRAINED, "while it was measured", patience=0.1)
    assert worker.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_runs_side_by_side_have_the_bits_of_one_alone(tmp_path: Path) -> None:
    """Really run on the CPU: all three processes have the same digest, and each number of runs has a speed."""
    sizes = ("--images", "256", "--test-images", "10", "--epochs", "2", "--repetitions", "1")
    command = (sys.executable, "-m", "benchmarks.sharing", "--device", "cpu", "--counts", "1,2", *sizes)
    done = subprocess.run(
        [*command, "--out", tmp_path / "sharing.json"], cwd=gpu.FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "sharing.json").read_text())
    assert report["same_bits"]
    assert len(report["ways"]["turns"]["bits"]) == 1
    assert report["ways"].keys() == {"turns"}
    for count, found in report["ways"]["turns"]["runs"].items():
        assert found["images_per_second"]["median"] > 0
        assert (count == "1") == (found["ratio"] == 1)


def test_run_that_nobody_waits_for_ends() -> None:
    """A worker whose parent was killed does not treat the end of its input as the start signal."""
    row = study.load(gpu.FOLDER).experiments["one3"]
    row = row.model_copy(update={"training": row.training.model_copy(update={"epochs": 3, "precision": "fp32"})})
    asked = {"row": row.model_dump(mode="json"), "device": "cpu", "threads": 1, "epochs": 3}
    asked["images"] = {"train": 128, "test": 10}
    command = [sys.executable, "-m", "benchmarks.sharing", "--worker"]
    done = subprocess.run(command, cwd=gpu.FOLDER, input=json.dumps(asked) + "\n", capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (sharing.READY, 1)
    assert "the process that waited for this run has ended" in done.stderr
