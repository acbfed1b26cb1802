"""Several runs on one device: in parallel against one after another, and whether their bits stay the same.

    python -m benchmarks.sharing --device cuda --counts 1,2,4,8

Each run is a separate process, as under Snakemake, and trains the same network from the same seed. On a GPU the
processes take turns, or run at once through NVIDIA's Multi-Process Service (MPS), which is started and stopped here.
All begin their measured epochs together, after one epoch that is not measured; the time ends with the last run. If the
measurement of one way is interrupted, that of the other is kept, and the same command continues.
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
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer
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
CONTROL = "nvidia-cuda-mps-control"
READY, GO, TRAINED = "ready\n", "go\n", "trained\n"


class Starter:
    """Waits for the start signal after the first epoch."""

    def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Do nothing."""

    def advance(self, images: int) -> None:
        """Do nothing."""

    def end(self, row: Row, timing: Row) -> None:
        """Report readiness after the first epoch, and wait for the start signal."""
        if row["epoch"] == 0:
            print(READY, end="", flush=True)
            if sys.stdin.readline() != GO:
                sys.exit("the process that waited for this run has ended")


def work() -> None:
    """Run as a worker: read the task as a line of JSON, report progress, then print the digest of the weights."""
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
    """Seconds of some parallel runs, and the digests of their weights.

    Raises:
        CoopNetError: one of them failed.
    """
    command = [sys.executable, "-m", "benchmarks.sharing", "--worker"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": FOLDER}
    workers = [subprocess.Popen(command, env=dict(environment), **pipes) for _ in range(runs)]
    try:
        for worker in workers:
            _send(worker, json.dumps(asked) + "\n")
        _expect(workers, READY, "before its first epoch was done", asked["patience"])
        began = perf_counter()
        for worker in workers:
            _send(worker, GO)
        _expect(workers, TRAINED, "while it was measured", asked["patience"])
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


def _send(worker: "subprocess.Popen[str]", line: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(line)
    worker.stdin.flush()


def _kill(workers: "Sequence[subprocess.Popen[str]]") -> None:
    for worker in workers:
        worker.kill()


def _expect(workers: "Sequence[subprocess.Popen[str]]", line: str, when: str, patience: float) -> None:
    """Wait until all workers have printed a line; after `patience` seconds they are killed.

    Raises:
        CoopNetError: a worker ended, printed something else, or was killed.
    """
    alarm = Timer(patience, _kill, (workers,))
    alarm.start()
    try:
        if any(worker.stdout.readline() != line for worker in workers):  # type: ignore[union-attr]
            raise CoopNetError(f"one of {len(workers)} runs side by side failed {when}; see above")
    finally:
        alarm.cancel()


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """Run NVIDIA's Multi-Process Service meanwhile; yields the environment of its clients.

    Raises:
        CoopNetError: it is not installed, or does not start.
    """
    control = shutil.which(CONTROL)
    if control is None:
        raise CoopNetError(f"{CONTROL} is not installed here")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # its server may still write there
        environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        _control(control, environment, "-d")
        try:
            yield environment
        finally:
            with suppress(CoopNetError):  # the measurement is valid even if this fails
                _control(control, environment, request="quit\n")


def _control(control: str, environment: Mapping[str, str], *options: str, request: str = "") -> None:
    """Start MPS, or send it a request.

    Its output goes to a file, because a service that keeps a pipe open would block this process.

    Raises:
        CoopNetError: it fails, or does not answer in half a minute.
    """
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(
                [control, *options], input=request, env=environment, stdout=output, stderr=output, text=True, timeout=30
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            output.seek(0)
            reason = output.read().strip() or "failed, or gave no answer"
            raise CoopNetError(f"{' '.join((control, *options))}: {reason}")


@contextmanager
def turns() -> Iterator[dict[str, str]]:
    """Start nothing: processes take turns on the device."""
    yield dict(os.environ)


WAYS: dict[str, Callable[[], AbstractContextManager[dict[str, str]]]] = {"turns": turns, "mps": mps}
"""Ways to share a device; each yields the environment of the processes."""


def ways_on(device: torch.device) -> list[str]:
    """The possible ways to share a device, best first: MPS on a GPU if it is installed, and turns."""
    return ["mps", "turns"] if device.type == "cuda" and shutil.which(CONTROL) else ["turns"]


@contextmanager
def shared(way: str) -> Iterator[dict[str, str]]:
    """The environment of processes that share a device this way; if MPS does not start, they take turns."""
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(WAYS[way]())
        except CoopNetError as error:
            print(f"{error}; runs take turns", flush=True)
            environment = dict(os.environ)
        yield environment


def measure(way: str, counts: Sequence[int], asked: Mapping[str, Any], repetitions: int) -> dict[str, Any]:
    """Measure all counts of runs for one way to share, one repetition after another.

    Returns:
        `runs.<count>`: `images_per_second` of all runs together, with its spread, and `ratio` to one run alone in the
        same way; `bits`: digests of the final weights, one if all are the same.

    Raises:
        CoopNetError: one of the runs failed, or the way is not available.
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
    """The ways already measured with these settings by an interrupted measurement."""
    if not path.is_file():
        return {}
    known = files.read_json(path)
    found: dict[str, Any] = known.pop("ways", {})
    known.pop("same_bits", None)
    return found if known == settings and set(found) < set(ways) else {}


def main(
    device: str = "cuda",
    counts: Annotated[str, typer.Option(help="numbers of parallel runs, beginning with one")] = "1,2,4,8",
    images: Annotated[int, typer.Option(help="training images per epoch")] = EPOCH["train"],
    test_images: int = EPOCH["test"],
    epochs: Annotated[int, typer.Option(min=2, help="epochs of each run; the first is not measured")] = 4,
    repetitions: int = 2,
    threads: Annotated[int, typer.Option(help="threads of PyTorch in each run")] = 1,
    patience: Annotated[float, typer.Option(help="seconds that an answer may take, as MPS may never give one")] = 600.0,
    out: Path = RESULT,
    best_way: Annotated[bool, typer.Option("--best-way", help="stop after the first way that works")] = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Measure, and write `results/bench/sharing.json`."""
    if worker:
        work()
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that started processes are stopped
    where = choose(device)
    row = one_epoch(study.load(FOLDER).experiments[PRICED], where)
    row = row.model_copy(update={"training": row.training.model_copy(update={"epochs": epochs})})
    asked = {"row": row.model_dump(mode="json"), "device": device, "threads": threads, "epochs": epochs}
    asked["patience"] = patience
    asked["images"] = {"train": images, "test": test_images}
    settings: dict[str, Any] = {"experiment": PRICED, "device": describe(where), "libraries": provenance.libraries()}
    settings |= {"asked": asked, "counts": [int(count) for count in counts.split(",")], "repetitions": repetitions}
    report = {"ways": unfinished(out, settings, ways_on(where))} | settings
    for way in ways_on(where):
        works = any("runs" in found for found in report["ways"].values())
        if way not in report["ways"] and not (best_way and works):
            try:
                report["ways"][way] = measure(way, settings["counts"], asked, repetitions)
            except CoopNetError as error:
                if way == "turns":  # turns need no service, so this is a real error
                    sys.exit(f"error: {error}")
                report["ways"][way] = {"error": str(error)}
            bits = {digest for found in report["ways"].values() for digest in found.get("bits", ())}
            files.write_json(out, report | {"same_bits": len(bits) == 1})
    print(out.read_text())


if __name__ == "__main__":
    typer.run(main)
