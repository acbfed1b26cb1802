"""Several runs on one device: side by side against one after another, and whether their bits stay the same.

    python -m benchmarks.sharing --device cuda --counts 1,2,4,8

Each run is a process of its own, as it is under Snakemake, and trains the same network from the same seed. On a GPU
they take turns, or run at once through NVIDIA's Multi-Process Service (MPS), which is started and stopped here. All
begin their measured epochs together, after an epoch that is not measured; the time is that of the last to end.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

from benchmarks.loops import Nowhere, switch, task
from benchmarks.watch import spread
from benchmarks.workload import EPOCH, PRICED, one_epoch, synthetic
from coopnet import files, provenance, study
from coopnet.errors import CoopNetError
from coopnet.settings import Experiment
from coopnet.training.device import choose, describe
from coopnet.training.trainer import Row, train

FOLDER = Path(__file__).parent.parent
GO = "go\n"


class Starter:
    """Waits for the start signal after the first epoch."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Nothing."""

    def advance(self, images: int) -> None:
        """Nothing."""

    def end(self, row: Row, timing: Row) -> None:
        """Be ready, once."""
        if row["epoch"] == 0:
            print("ready", flush=True)
            sys.stdin.readline()


def work() -> None:
    """Be one of the runs: told what to do in a line of JSON; prints `ready`, then the digest of its weights."""
    asked = json.loads(sys.stdin.readline())
    row, device = Experiment.model_validate(asked["row"]), choose(asked["device"])
    switch("ours", asked["threads"])
    trained = train(task(row, synthetic(row, asked["images"]), device), Nowhere(), Starter(), lambda: None)
    digest = hashlib.sha256()
    for tensor in trained.network.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    print(digest.hexdigest(), flush=True)


def side_by_side(runs: int, asked: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[float, set[str]]:
    """Seconds of some runs at once, and the digests of their weights.

    Raises:
        CoopNetError: one of them failed.
    """
    command = [sys.executable, "-m", "benchmarks.sharing", "--worker"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": FOLDER}
    workers = [subprocess.Popen(command, env=dict(environment), **pipes) for _ in range(runs)]
    try:
        for worker in workers:
            _tell(worker, json.dumps(asked) + "\n")
        if any(worker.stdout.readline() != "ready\n" for worker in workers):  # type: ignore[union-attr]
            raise CoopNetError(f"one of {runs} runs side by side failed before its first epoch was done; see above")
        began = perf_counter()
        for worker in workers:
            _tell(worker, GO)
        digests = {worker.communicate()[0].strip() for worker in workers}
        seconds = perf_counter() - began
    finally:
        for worker in workers:
            worker.kill()
    if any(worker.returncode for worker in workers):
        raise CoopNetError(f"one of {runs} runs side by side failed; see above")
    return seconds, digests


def _tell(worker: "subprocess.Popen[str]", line: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(line)
    worker.stdin.flush()


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """NVIDIA's Multi-Process Service, started for the while; gives the environment of its clients.

    Raises:
        CoopNetError: it is not installed, or does not start.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        raise CoopNetError("nvidia-cuda-mps-control is not installed here")
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        started = subprocess.run([control, "-d"], env=environment, capture_output=True, text=True)
        if started.returncode:
            raise CoopNetError(f"{control} -d: {started.stderr.strip() or started.returncode}")
        try:
            yield environment
        finally:
            subprocess.run([control], input="quit\n", env=environment, text=True, capture_output=True)


@contextmanager
def turns() -> Iterator[dict[str, str]]:
    """Nothing is started: processes take turns on the device."""
    yield dict(os.environ)


def measure(device: torch.device, counts: Sequence[int], asked: dict[str, Any], repetitions: int) -> dict[str, Any]:
    """All counts of runs in all ways to share, the repetitions one after another.

    Returns:
        `ways.<way>.<count>`: `images_per_second` of all runs together, with its spread, and `ratio` to one run alone in
        the same way; `same_bits`: whether all runs, alone or not, ended with the same weights.
    """
    measured = (asked["epochs"] - 1) * asked["images"]["train"]
    ways: dict[str, Any] = {}
    bits: set[str] = set()
    for way, sharing in {"turns": turns, "mps": mps}.items():
        if way == "mps" and device.type != "cuda":
            continue
        try:
            with sharing() as environment:
                samples: dict[int, list[float]] = {count: [] for count in counts}
                for _ in range(repetitions):
                    for count in counts:
                        seconds, digests = side_by_side(count, asked, environment)
                        samples[count].append(count * measured / seconds)
                        bits |= digests
        except CoopNetError as error:
            ways[way] = {"error": str(error)}
            continue
        speeds = {count: spread(values) for count, values in samples.items()}
        alone = speeds[min(counts)]["median"] / min(counts)
        ways[way] = {
            str(count): {"images_per_second": speed, "ratio": speed["median"] / alone}
            for count, speed in speeds.items()
        }
    return {"ways": ways, "same_bits": len(bits) == 1}


def main(
    device: str = "cuda",
    counts: Annotated[str, typer.Option(help="runs side by side, the first of them alone")] = "1,2,4,8",
    images: Annotated[int, typer.Option(help="training images of an epoch")] = EPOCH["train"],
    test_images: int = EPOCH["test"],
    epochs: Annotated[int, typer.Option(min=2, help="of each run, the first is not measured")] = 6,
    repetitions: int = 2,
    threads: Annotated[int, typer.Option(help="of PyTorch in each run")] = 1,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Measure, and write `results/bench/sharing.json`."""
    if worker:
        work()
        return
    where = choose(device)
    row = one_epoch(study.load(FOLDER).experiments[PRICED], where)
    row = row.model_copy(update={"training": row.training.model_copy(update={"epochs": epochs})})
    asked = {"row": row.model_dump(mode="json"), "device": device, "threads": threads, "epochs": epochs}
    asked["images"] = {"train": images, "test": test_images}
    report = measure(where, [int(count) for count in counts.split(",")], asked, repetitions)
    report |= {"experiment": PRICED, "device": describe(where), "libraries": provenance.libraries()}
    files.write_json(FOLDER / "results" / "bench" / "sharing.json", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    typer.run(main)
