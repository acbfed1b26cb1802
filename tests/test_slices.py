"""The script that does in slices of time all that needs a GPU: it goes on where it stopped, and stops at a failure."""

import json
import tarfile
from pathlib import Path

import pytest
import typer

from benchmarks import gpu
from coopnet import study
from coopnet.commands.train import TIME_IS_UP
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

    def run(self, *command: str) -> int:
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
    assert gpu._runs(NoTimeLeft(1), "tiny", ["foundation"], jobs=2) == TIME_IS_UP
    assert sorted(events(tmp_path)) == [("trained", "one3/seed0"), ("trained", "one3/seed1")]
    assert gpu._runs(gpu.Slice(10), "tiny", ["foundation"], jobs=2) == 0
    said = events(tmp_path)[2:]
    assert sorted(said[:2]) == [("resumed", "one3/seed0"), ("resumed", "one3/seed1")]
    for seed in (0, 1):
        assert said.index(("finished", f"one3/seed{seed}")) < said.index(("trained", f"one3_continued/seed{seed}"))
    plan = study.load(place, "tiny")
    assert all(gpu._done(plan, run) for run in plan.runs.values())
    assert gpu._runs(NoTimeLeft(1), "tiny", ["foundation"], jobs=2) == 0
    assert events(tmp_path)[2:] == said


def test_failed_run_begins_no_other(place: Path, tmp_path: Path) -> None:
    """A network that diverges ends the slice with its exit code, and its child is not tried."""
    edit(place, lambda tiny: tiny.update(experiments={"one3": {"training": {"optimizer": {"lr": 1e30}}}}))
    assert gpu._runs(gpu.Slice(10), "tiny", ["foundation"], jobs=1) == 1
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
            gpu.main(minutes=1, name="tiny", device="cuda", pack=None, jobs=1, parts="foundation", steps=steps)
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
        gpu.main(minutes=1, name="tiny", device="cuda", pack=None, jobs=1, parts="foundation", steps=steps)


def test_results_are_packed_without_logits(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, histories and records of the study and what was measured, and nothing that is large."""
    for name in ("bench/gpu.json", "tiny/one3/seed0/run.json", "tiny/one3/seed0/logits.safetensors"):
        (place / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "results" / name).write_text(name)
    monkeypatch.setattr(gpu, "_runs", lambda *asked: 0)
    with pytest.raises(typer.Exit):
        gpu.main(minutes=1, name="tiny", device="cuda", pack=tmp_path / "packed.tar.gz", jobs=1, steps="runs", parts="")
    with tarfile.open(tmp_path / "packed.tar.gz") as packed:
        files = {member.name for member in packed.getmembers() if member.isfile()}
    assert files == {"results/bench/gpu.json", "results/tiny/one3/seed0/run.json"}
