"""The scripts that measure on a GPU: slices of time go on where the last one stopped, and runs share a device."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from benchmarks import gpu, sharing
from coopnet import study
from coopnet.commands.train import TIME_IS_UP
from coopnet.files.errors import CoopNetError
from test_pipeline import edit, prepared, workspace

__all__ = ["prepared", "workspace"]


class NoTimeLeft(gpu.Slice):
    """Just enough of it to begin, so that each run stops after its first step."""

    @property
    def left(self) -> float:
        """Seconds."""
        return gpu.RESERVE


class Commands(gpu.Slice):
    """Runs nothing: keeps what it was asked for and gives the exit codes that it was told."""

    def __init__(self, **codes: int) -> None:
        super().__init__(1)
        self.codes, self.asked = codes, list[tuple[str, ...]]()

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> int:
        """As if it had been run; a test leaves its list, whatever came out."""
        self.asked.append(command)
        for argument in command:
            if argument.startswith("--junitxml="):
                Path(argument.removeprefix("--junitxml=")).write_text("<testsuites/>")
        return self.codes.get(command[1], 0)


@pytest.fixture
def place(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that the script takes for its own, with two seeds of a network and its control."""
    monkeypatch.setattr(gpu, "FOLDER", workspace)
    monkeypatch.setattr(gpu, "BENCH", workspace / "results" / "bench")
    edit(workspace, lambda tiny: tiny.update(only=["one3", "one3_continued"], seeds=[0, 1]))
    return workspace


def events(tmp_path: Path) -> list[tuple[str, str]]:
    """What the run store has seen happen."""
    lines = (tmp_path / "store" / "journal.jsonl").read_text().splitlines()
    return [(event["event"], event["run"].removeprefix("tiny/")) for event in map(json.loads, lines)]


def test_runs_go_on_where_the_last_slice_stopped(place: Path, tmp_path: Path) -> None:
    """Cut off after a step, then finished, parents first; a third time there is nothing to do."""
    assert gpu._runs(NoTimeLeft(1), "tiny", ["foundation"], jobs=2, environment=os.environ) == TIME_IS_UP
    assert sorted(events(tmp_path)) == [("trained", "one3/seed0"), ("trained", "one3/seed1")]
    assert gpu._runs(gpu.Slice(10), "tiny", ["foundation"], jobs=2, environment=os.environ) == 0
    said = events(tmp_path)[2:]
    assert sorted(said[:2]) == [("resumed", "one3/seed0"), ("resumed", "one3/seed1")]
    for seed in (0, 1):
        assert said.index(("finished", f"one3/seed{seed}")) < said.index(("trained", f"one3_continued/seed{seed}"))
    plan = study.load(place, "tiny")
    assert all(gpu._done(plan, run) for run in plan.runs.values())
    assert gpu._runs(NoTimeLeft(1), "tiny", ["foundation"], jobs=2, environment=os.environ) == 0
    assert events(tmp_path)[2:] == said


def test_failed_run_begins_no_other(place: Path, tmp_path: Path) -> None:
    """A network that diverges ends the slice with its exit code, and its child is not tried."""
    edit(place, lambda tiny: tiny.update(experiments={"one3": {"training": {"optimizer": {"lr": 1e30}}}}))
    assert gpu._runs(gpu.Slice(10), "tiny", ["foundation"], jobs=1, environment=os.environ) == 1
    assert {run for _, run in events(tmp_path)} == {"one3/seed0"}


def test_only_the_parts_asked_for_and_what_they_need(place: Path) -> None:
    """The first seed comes first, parents before their children, and other parts are left out."""
    edit(place, lambda tiny: tiny.update(only=["one3", "one3_to_5_split", "one4"]))
    runs = [run.name for run in gpu._in_order(study.load(place, "tiny"), ["foundation"])]
    assert runs == ["one3/seed0", "one3_to_5_split/seed0", "one3/seed1", "one3_to_5_split/seed1"]


def test_steps_are_done_once_and_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has left its result is not repeated, what failed is, and nothing comes after it."""
    asked: list[Commands] = []

    def sliced(**codes: int) -> list[str]:
        monkeypatch.setattr(gpu, "Slice", lambda minutes: asked.append(Commands(**codes)) or asked[-1])
        monkeypatch.setattr(gpu, "_runs", lambda piece, *rest: piece.run("-m", "runs"))
        with pytest.raises(typer.Exit) as ended:
            gpu.main(minutes=1, name="tiny", device="cuda", parts="foundation", steps=steps, way="turns")
        assert ended.value.exit_code == max(codes.values(), default=0)
        return [command[1] for command in asked[-1].asked]

    steps = "tests,bench,sharing,runs"
    assert sliced(pytest=1) == ["pytest"]
    assert sliced(coopnet=TIME_IS_UP) == ["pytest", "coopnet"]
    (gpu.BENCH / "gpu.json").write_text("{}")
    assert sliced() == ["benchmarks.sharing", "runs"]
    steps = "runs,sharing"
    assert sliced() == ["runs", "benchmarks.sharing"]
    steps = "tests,nothing"
    with pytest.raises(typer.BadParameter, match="nothing is none of tests"):
        gpu.main(minutes=1, name="tiny", device="cuda", parts="foundation", steps=steps)
    with pytest.raises(typer.BadParameter, match="streams is none of turns, mps"):
        gpu.main(minutes=1, name="tiny", device="cuda", parts="foundation", way="streams")


def test_results_are_packed_without_logits(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, histories and records of the study and what was measured, and nothing that is large."""
    for name in ("bench/gpu.json", "tiny/one3/seed0/run.json", "tiny/one3/seed0/logits.safetensors"):
        (place / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "results" / name).write_text(name)
    monkeypatch.setattr(gpu, "_runs", lambda *asked: 0)
    with pytest.raises(typer.Exit):
        gpu.main(minutes=1, name="tiny", device="cuda", pack=tmp_path / "packed.tar.gz", steps="runs", parts="")
    with tarfile.open(tmp_path / "packed.tar.gz") as packed:
        files = {member.name for member in packed.getmembers() if member.isfile()}
    assert files == {"results/bench/gpu.json", "results/tiny/one3/seed0/run.json"}


def test_what_outlives_its_slice_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gets SIGTERM and the time to clean up, and the slice says that time is up."""
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    script = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("cleaned").touch()
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""
    piece = gpu.Slice((gpu.GRACE + 3) / 60)
    assert piece.run("-c", script) == TIME_IS_UP
    assert (tmp_path / "cleaned").exists()
    assert piece.left > 0


def test_runs_are_told_how_many_share_the_device(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process leases its part of the device, and has the environment of the way in which they share it."""
    told: list[Mapping[str, str] | None] = []

    def run(self: gpu.Slice, *command: str, environment: Mapping[str, str] | None = None) -> int:
        told.append(environment)
        return 1

    monkeypatch.setattr(gpu.Slice, "run", run)
    assert gpu._runs(gpu.Slice(10), "tiny", ["foundation"], jobs=3, environment={"CUDA_MPS_PIPE_DIRECTORY": "x"}) == 1
    assert told[0] == {"COOPNET_RUNS_PER_GPU": "3", "CUDA_MPS_PIPE_DIRECTORY": "x"}


def test_missing_way_to_share_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without NVIDIA's service one line says so, and nothing is run."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(typer.Exit) as ended:
        gpu.main(minutes=1, name="tiny", steps="runs", way="mps")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "error: nvidia-cuda-mps-control is not installed here\n"


def measured(**speeds: float) -> dict[str, object]:
    """A result of sharing with two runs side by side, by way."""
    return {
        "ways": {
            way: {"runs": {"2": {"images_per_second": {"median": speed}}}, "bits": ["a"]} if speed else {"error": "no"}
            for way, speed in speeds.items()
        }
    }


def test_runs_share_as_was_measured_best(tmp_path: Path) -> None:
    """The faster way at that number of runs; turns where that number, or anything, was not measured."""
    path = tmp_path / "sharing.json"
    assert sharing.best_way(path, 2) == "turns"
    for speeds, best in (
        ({"turns": 1.0, "mps": 2.0}, "mps"),
        ({"turns": 3.0, "mps": 2.0}, "turns"),
        ({"turns": 1.0, "mps": 0}, "turns"),
    ):
        path.write_text(json.dumps(measured(**speeds)))
        assert sharing.best_way(path, 2) == best
        assert sharing.best_way(path, 4) == "turns"


def test_ways_to_share_are_measured_once_each(tmp_path: Path) -> None:
    """What another slice measured is kept while a way is missing, unless settings differ."""
    path, settings, ways = tmp_path / "sharing.json", {"repetitions": 2}, ["turns", "mps"]
    assert sharing.unfinished(path, settings, ways) == {}
    path.write_text(json.dumps(settings | measured(turns=1.0) | {"same_bits": True}))
    assert sharing.unfinished(path, settings, ways) == measured(turns=1.0)["ways"]
    assert sharing.unfinished(path, {"repetitions": 3}, ways) == {}
    path.write_text(json.dumps(settings | measured(turns=1.0, mps=2.0) | {"same_bits": True}))
    assert sharing.unfinished(path, settings, ways) == {}


def test_what_failed_is_not_taken_for_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that fail while they take turns end it and leave no result; a service that is not there is only noted."""
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


def test_runs_side_by_side_have_the_bits_of_one_alone(tmp_path: Path) -> None:
    """Really run on the CPU: the same digest from all three processes, and a speed for each number of runs."""
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
    """A worker whose parent was killed does not take the end of its input for the signal to go on."""
    row = study.load(gpu.FOLDER).experiments["one3"]
    row = row.model_copy(update={"training": row.training.model_copy(update={"epochs": 3, "precision": "fp32"})})
    asked = {"row": row.model_dump(mode="json"), "device": "cpu", "threads": 1, "epochs": 3}
    asked["images"] = {"train": 128, "test": 10}
    command = [sys.executable, "-m", "benchmarks.sharing", "--worker"]
    done = subprocess.run(command, cwd=gpu.FOLDER, input=json.dumps(asked) + "\n", capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (sharing.READY, 1)
    assert "nobody waits for this run any more" in done.stderr
