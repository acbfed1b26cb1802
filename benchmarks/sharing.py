"""Several runs on one device: side by side against one after another, and whether their bits stay the same.

    python -m benchmarks.sharing --device cuda --counts 1,2,4,8

Each run is a process of its own, as it is under Snakemake, and trains the same network from the same seed. On a GPU
they take turns, or run at once through NVIDIA's Multi-Process Service (MPS), which is started and stopped here. All
begin their measured epochs together, after an epoch that is not measured; the time is that of the last to have trained.
What was measured of one way stays when the other is cut off, and the same command goes on with that one.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

from benchmarks.loops import Nowhere, switch, task
from benchmarks.watch import spread
from benchmarks.workload import EPOCH, PRICED, one_epoch, synthetic
from coopnet import files, study
from coopnet.files.errors import CoopNetError
from coopnet.runs import provenance
from coopnet.study.settings import Experiment
from coopnet.training.device import choose, describe
from coopnet.training.trainer import Row, train

FOLDER = Path(__file__).parent.parent
RESULT = FOLDER / "results" / "bench" / "sharing.json"
READY, GO, TRAINED = "ready\n", "go\n", "trained\n"


class Starter:
    """Waits for the start signal after the first epoch."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Nothing."""

    def advance(self, images: int) -> None:
        """Nothing."""

    def end(self, row: Row, timing: Row) -> None:
        """Be ready, once."""
        if row["epoch"] == 0:
            print(READY, end="", flush=True)
            if sys.stdin.readline() != GO:
                sys.exit("nobody waits for this run any more")


def work() -> None:
    """Be one of the runs: told what to do in a line of JSON; says how far it is, then the digest of its weights."""
    asked = json.loads(sys.stdin.readline())
    row, device = Experiment.model_validate(asked["row"]), choose(asked["device"])
    switch("ours", asked["threads"])
    trained = train(task(row, synthetic(row, asked["images"]), device), Nowhere(), Starter(), lambda: None)
    print(TRAINED, end="", flush=True)
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
        _hear(workers, READY, "before its first epoch was done")
        began = perf_counter()
        for worker in workers:
            _tell(worker, GO)
        _hear(workers, TRAINED, "while it was measured")
        seconds = perf_counter() - began
        digests = {worker.stdout.readline().strip() for worker in workers}  # type: ignore[union-attr]
        for worker in workers:
            worker.wait()
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


def _hear(workers: "Sequence[subprocess.Popen[str]]", line: str, when: str) -> None:
    """Wait until all of them have said it.

    Raises:
        CoopNetError: one ended instead.
    """
    if any(worker.stdout.readline() != line for worker in workers):  # type: ignore[union-attr]
        raise CoopNetError(f"one of {len(workers)} runs side by side failed {when}; see above")


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """NVIDIA's Multi-Process Service, started for the while; gives the environment of its clients.

    Raises:
        CoopNetError: it is not installed, or does not start.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        raise CoopNetError("nvidia-cuda-mps-control is not installed here")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # its server may still write there
        environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        _control(control, environment, "-d")
        try:
            yield environment
        finally:
            with suppress(CoopNetError):  # what was measured counts all the same
                _control(control, environment, told="quit\n")


def _control(control: str, environment: Mapping[str, str], *options: str, told: str = "") -> None:
    """Start MPS or tell it something.

    What it says goes into a file: a service that keeps a pipe open would be waited for.

    Raises:
        CoopNetError: it does not do it, or not in half a minute.
    """
    with tempfile.TemporaryFile("w+") as said:
        try:
            code = subprocess.run(
                [control, *options], input=told, env=environment, stdout=said, stderr=said, text=True, timeout=30
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            said.seek(0)
            raise CoopNetError(f"{' '.join((control, *options))}: {said.read().strip() or 'failed, or gave no answer'}")


@contextmanager
def turns() -> Iterator[dict[str, str]]:
    """Nothing is started: processes take turns on the device."""
    yield dict(os.environ)


WAYS: dict[str, Callable[[], AbstractContextManager[dict[str, str]]]] = {"turns": turns, "mps": mps}
"""To share a device; each gives the environment of the processes that do."""


def ways_on(device: torch.device) -> list[str]:
    """The ways that there are to share it."""
    return [way for way in WAYS if way != "mps" or device.type == "cuda"]


def measure(way: str, counts: Sequence[int], asked: Mapping[str, Any], repetitions: int) -> dict[str, Any]:
    """All counts of runs in one way to share, the repetitions one after another.

    Returns:
        `runs.<count>`: `images_per_second` of all runs together, with its spread, and `ratio` to one run alone in the
        same way; `bits`: digests of the weights that the runs ended with, one if all are the same.

    Raises:
        CoopNetError: one of the runs failed, or the way is not to be had.
    """
    measured = (asked["epochs"] - 1) * asked["images"]["train"]
    samples: dict[int, list[float]] = {count: [] for count in counts}
    bits: set[str] = set()
    with WAYS[way]() as environment:
        for _ in range(repetitions):
            for count in counts:
                seconds, digests = side_by_side(count, asked, environment)
                samples[count].append(count * measured / seconds)
                bits |= digests
    speeds = {count: spread(values) for count, values in samples.items()}
    alone = speeds[min(counts)]["median"] / min(counts)
    runs = {
        str(count): {"images_per_second": speed, "ratio": speed["median"] / alone} for count, speed in speeds.items()
    }
    return {"runs": runs, "bits": sorted(bits)}


def unfinished(path: Path, settings: Mapping[str, Any], ways: Sequence[str]) -> dict[str, Any]:
    """The ways that were measured with these settings when another way was cut off."""
    if not path.is_file():
        return {}
    known = files.read_json(path)
    found: dict[str, Any] = known.pop("ways", {})
    known.pop("same_bits", None)
    return found if known == settings and set(found) < set(ways) else {}


def best_way(path: Path, jobs: int) -> str:
    """The way in which so many runs were measured to be fastest; without a measurement they take turns."""
    ways = files.read_json(path)["ways"] if path.is_file() else {}
    speeds = {
        way: found["runs"][str(jobs)]["images_per_second"]["median"]
        for way, found in ways.items()
        if str(jobs) in found.get("runs", {})
    }
    return max(speeds, key=lambda way: speeds[way], default="turns")


def main(
    device: str = "cuda",
    counts: Annotated[str, typer.Option(help="runs side by side, the first of them alone")] = "1,2,4,8",
    images: Annotated[int, typer.Option(help="training images of an epoch")] = EPOCH["train"],
    test_images: int = EPOCH["test"],
    epochs: Annotated[int, typer.Option(min=2, help="of each run, the first is not measured")] = 4,
    repetitions: int = 2,
    threads: Annotated[int, typer.Option(help="of PyTorch in each run")] = 1,
    out: Path = RESULT,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Measure, and write `results/bench/sharing.json`."""
    if worker:
        work()
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and stop what was started
    where = choose(device)
    row = one_epoch(study.load(FOLDER).experiments[PRICED], where)
    row = row.model_copy(update={"training": row.training.model_copy(update={"epochs": epochs})})
    asked = {"row": row.model_dump(mode="json"), "device": device, "threads": threads, "epochs": epochs}
    asked["images"] = {"train": images, "test": test_images}
    settings: dict[str, Any] = {"experiment": PRICED, "device": describe(where), "libraries": provenance.libraries()}
    settings |= {"asked": asked, "counts": [int(count) for count in counts.split(",")], "repetitions": repetitions}
    report = {"ways": unfinished(out, settings, ways_on(where))} | settings
    for way in ways_on(where):
        if way not in report["ways"]:
            try:
                report["ways"][way] = measure(way, settings["counts"], asked, repetitions)
            except CoopNetError as error:
                if way == "turns":  # which need nothing that a machine may lack
                    sys.exit(f"error: {error}")
                report["ways"][way] = {"error": str(error)}
            bits = {digest for found in report["ways"].values() for digest in found.get("bits", ())}
            files.write_json(out, report | {"same_bits": len(bits) == 1})
    print(out.read_text())


if __name__ == "__main__":
    typer.run(main)
