"""`coopnet train` of a row with several processes, as a user has it: whatever ends one of them, nothing is lost."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coopnet import study
from coopnet.commands import torchrun
from coopnet.files.errors import CoopNetError
from coopnet.runs import failures
from coopnet.runs.workspace import Workspace
from coopnet.study.settings import Training
from test_pipeline import BIN, TINY, bits, call, edit, make_workspace, prepared

__all__ = ["prepared"]  # the fixture

TRAIN = (BIN / "coopnet", "train", "tiny", "one3", "0")


def with_processes(content: dict, processes: int = 2) -> None:  # type: ignore[type-arg]
    """Change a study so that all its runs have several processes."""
    content["every_experiment"]["training"]["processes"] = processes


@pytest.fixture
def workspace(tmp_path: Path, prepared: Path) -> Path:
    """A workspace whose runs have two processes each, and some epochs."""
    folder = make_workspace(tmp_path / "workspace", prepared)
    edit(folder, with_processes)
    edit(folder, lambda content: content.update(time_scale=0.02, only=["baseline", *TINY["only"]]))  # type: ignore[misc]
    return folder


# The parameter


def test_one_process_is_not_written_down() -> None:
    """A row with one process is the row that it was before there could be more; with two it is another."""
    one = {"epochs": 1, "optimizer": {"kind": "sgd", "lr": 0.1}}
    plain, said, two = (Training.model_validate(one | more) for more in ({}, {"processes": 1}, {"processes": 2}))
    assert plain.model_dump(mode="json") == said.model_dump(mode="json")
    assert "processes" not in plain.model_dump(mode="json")
    assert two.model_dump(mode="json") == plain.model_dump(mode="json") | {"processes": 2}


def test_processes_decide_the_key(workspace: Path) -> None:
    """One process leaves the key as it is without the parameter; two give another, three yet another."""
    keys = {}
    for processes in (None, 1, 2, 3):
        edit(workspace, lambda content: content["every_experiment"]["training"].pop("processes", None))
        if processes is not None:
            edit(workspace, lambda content, n=processes: with_processes(content, n))
        keys[processes] = study.load(workspace, "tiny").run("one3", 0).key
    assert keys[None] == keys[1]
    assert len(set(keys.values())) == 3


def test_more_processes_than_images_are_refused(workspace: Path) -> None:
    """A batch that cannot be shared is refused, with both numbers."""
    edit(workspace, lambda content: with_processes(content, 51))
    with pytest.raises(CoopNetError, match="processes 51 cannot share a batch_size of 50"):
        study.load(workspace, "tiny")


@pytest.mark.parametrize(("world", "processes"), [(3, 2), (2, 1), (1, 2)])
def test_another_number_of_processes_is_refused(world: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun must start as many as the row has: the number decides bits."""
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(CoopNetError, match=rf"training\.processes: {processes}, but torchrun started {world}"):
        torchrun.check("one3/seed0", processes)


def test_engines_give_each_process_its_threads(workspace: Path) -> None:
    """Snakemake counts the cores and the GPUs of all processes of a job."""
    edit(workspace, lambda content: content.update(threads=2, device="cuda", only=["one3"]))
    planned = call(
        workspace, "snakemake", "-n", "--cores", "8", "--resources", "gpu=4", "--config", "study=tiny",
        "--until", "train_digits",
    )  # fmt: skip
    output = planned.stdout + planned.stderr
    assert planned.returncode == 0, output
    assert "threads: 4" in output
    assert "gpu=2" in output


# Runs of two processes, made for real; each takes seconds to start


def undisturbed(folder: Path, prepared: Path, like: Path) -> dict[str, bytes]:
    """The results of the same study in another workspace, with a store of its own."""
    other = make_workspace(folder / "calm", prepared)
    (other / "studies" / "tiny.yaml").write_text((like / "studies" / "tiny.yaml").read_text())
    done = call(other, *map(str, ("coopnet", *TRAIN[1:])), store=str(folder / "calm-store"))
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    return bits(other)


class Started:
    """A training on its way."""

    def __init__(self, workspace: Path, *more: str):
        self.process = subprocess.Popen(
            [*TRAIN, *more], cwd=workspace, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.said = ""

    def until(self, words: str) -> None:
        """Wait until it says something."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if words in line:
                return
        raise AssertionError(self.said)

    def workers(self) -> dict[int, int]:
        """Its processes by rank."""
        found = {}
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks = [int(word[5:]) for word in variables if word.startswith(b"RANK=")]
            found |= {rank: int(child) for rank in ranks}
        return found

    def end(self) -> str:
        """Wait for its end, and for that of whoever writes to its log; all that it said."""
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        self.process.wait(60)
        return self.said


@pytest.fixture
def start(workspace: Path) -> Iterator[Callable[..., Started]]:
    """Starts a training, of which nothing is left after the test."""
    begun: list[Started] = []

    def starting(*more: str) -> Started:
        begun.append(Started(workspace, *more))
        return begun[-1]

    yield starting
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()


def kill_a_process(started: Started, rank: int, number: int) -> None:
    os.kill(started.workers()[rank], number)


def kill_the_launcher(started: Started, rank: int, number: int) -> None:
    os.kill(started.process.pid, number)


def kill_the_group(started: Started, rank: int, number: int) -> None:
    os.killpg(started.process.pid, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "rank", "number", "code", "words"),
    [
        (kill_a_process, 0, signal.SIGKILL, 1, "process 0 was ended by SIGKILL"),
        (kill_a_process, 1, signal.SIGKILL, 1, "process 1 was ended by SIGKILL"),
        (kill_a_process, 1, signal.SIGTERM, 143, "stopped by SIGTERM in epoch"),
        (kill_the_launcher, 0, signal.SIGKILL, -9, "stopped by SIGHUP in epoch"),
        (kill_the_launcher, 0, signal.SIGTERM, 143, "stopped by SIGTERM in epoch"),
        (kill_the_group, 0, signal.SIGINT, 130, "stopped by SIGINT in epoch"),
    ],
)
def test_killed_and_continued_the_result_is_the_same(
    kill: Callable[[Started, int, int], None],
    rank: int,
    number: int,
    code: int,
    words: str,
    workspace: Path,
    prepared: Path,
    tmp_path: Path,
    start: Callable[..., Started],
) -> None:
    """One line says what happened, all processes end, the same command continues, and the bits are the same."""
    started = start()
    started.until("epoch 2/")
    workers = started.workers()
    assert sorted(workers) == [0, 1]
    kill(started, rank, number)
    said = started.end()
    assert started.process.returncode == code, said
    assert said.count(words) == 1, said
    assert "Traceback" not in said
    assert said.count("coopnet: error:") == (code == 1)
    deadline = time.monotonic() + 20
    while alive := [pid for pid in workers.values() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    again = call(workspace, *map(str, ("coopnet", *TRAIN[1:])))
    assert again.returncode == 0, again.stderr
    assert "epoch 1/" not in again.stderr
    assert bits(workspace) == undisturbed(tmp_path, prepared, workspace)


@pytest.mark.slow
def test_time_limit_and_torchrun_by_hand(
    workspace: Path, prepared: Path, tmp_path: Path, start: Callable[..., Started]
) -> None:
    """`--max-minutes` saves and gives 75; torchrun itself continues with the same bits, and finds the finished run."""
    limited = start("--max-minutes", "0.0001")
    said = limited.end()
    assert limited.process.returncode == 75, said
    assert "stopped at the time limit" in said
    arguments = ["--standalone", "--nproc-per-node", "2", "-m", "coopnet", *TRAIN[1:]]
    for words in ("epoch", "nothing to train"):
        done = subprocess.run([BIN / "torchrun", *arguments], cwd=workspace, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert words in done.stderr
    assert bits(workspace) == undisturbed(tmp_path, prepared, workspace)
    three = [*arguments[:2], "3", *arguments[3:]]
    refused = subprocess.run([BIN / "torchrun", *three], cwd=workspace, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "training.processes: 2, but torchrun started 3" in refused.stderr


@pytest.mark.slow
def test_errors_are_told_once(workspace: Path) -> None:
    """Divergence, which all processes see, is one line; so is a missing parent, and neither is a traceback."""
    edit(workspace, lambda content: content["every_experiment"]["training"].update(optimizer={"lr": 1e30}))
    for experiment, words in (("one3", "training has diverged"), ("one3_continued", "the parent one3/seed0")):
        done = call(workspace, "coopnet", "train", "tiny", experiment, "0")
        assert done.returncode == 1
        assert done.stderr.count(words) == 1, done.stderr
        assert done.stderr.count("coopnet: error:") == 1
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_in_one_process_is_told_once(
    rank: int, workspace: Path, prepared: Path, tmp_path: Path, start: Callable[..., Started]
) -> None:
    """Whichever process has none left: one line, the run is on record as failed, and with enough it goes on."""
    edit(workspace, lambda content: content["every_experiment"]["training"].update(batch_size=200))
    edit(workspace, lambda content: content["every_experiment"]["model"].update(width=16))
    started = start()
    started.until("epoch 2/")
    process = started.workers()[rank]
    resource.prlimit(process, resource.RLIMIT_AS, (2**20, 2**40))  # less than it has
    said = started.end()
    assert started.process.returncode == 1, said
    assert said.count("coopnet: error:") == said.count("no memory left on cpu in epoch") == 1, said
    assert "Traceback" not in said
    plan = study.load(workspace, "tiny")
    lost = failures.lost(Workspace(workspace), plan)["one3", 0]
    assert lost.kind == "out_of_memory"
    again = call(workspace, *map(str, ("coopnet", *TRAIN[1:])))
    assert again.returncode == 0, again.stderr
    assert "epoch 1/" not in again.stderr
    assert bits(workspace) == undisturbed(tmp_path, prepared, workspace)
    assert not failures.lost(Workspace(workspace), plan)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_kinds_of_runs(processes: int, workspace: Path) -> None:
    """A plain network, ONE-3, a child whose new branches open, another with validation: all are made, by Snakemake."""
    edit(workspace, lambda content: with_processes(content, processes))
    held_out = {"data": {"validation": 50}, "training": {"selection": "best_validation"}}
    edit(workspace, lambda content: content.update(time_scale=0.01, experiments={"baseline": held_out}))
    only = ["baseline", "one3", "one3_to_5_masked"]
    edit(workspace, lambda content: content.update(only=only))
    records = [f"results/tiny/{name}/seed0/run.json" for name in only]
    done = call(workspace, "snakemake", *records, "--cores", "6", "--config", "study=tiny")
    assert done.returncode == 0, done.stderr
    history = (workspace / "results" / "tiny" / "baseline" / "seed0" / "history.csv").read_text()
    assert "validation_top1_ensemble" in history.partition("\n")[0]
    for run in study.load(workspace, "tiny").runs.values():
        record = Workspace(workspace).run(study.load(workspace, "tiny"), run) / "run.json"
        assert f'"processes": {processes}' in record.read_text()
