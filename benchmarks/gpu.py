"""All that needs a GPU, in slices: correctness, benchmarks, then the core of the full study.

    coopnet prepare cifar100                  # once
    python -m benchmarks.gpu --minutes 9      # exit code 75: the same command goes on; 0: nothing is left to do

A failed test ends it: nothing is measured with code that is wrong. What was finished is not done again, and a run that
is cut off continues from its last epoch. Tests leave `results/bench/gpu_tests.xml`, the benchmarks their JSON beside
it, the runs their metrics, histories and provenance in `results/full/`. Where time is short, `--steps tests,runs`
leaves the benchmarks for later.
"""

import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import sharing
from coopnet import files, study
from coopnet.commands.train import TIME_IS_UP
from coopnet.files.errors import CoopNetError
from coopnet.runs import leases
from coopnet.runs.workspace import EVALUATED, Workspace
from coopnet.study import FULL, Run, Study

FOLDER = Path(__file__).parent.parent
PARTS = ("foundation", "step2")
TESTS = ("test_launch.py", "test_trainer.py", "test_network.py", "test_gradient_ratio.py")
BENCH = FOLDER / "results" / "bench"
STEPS = ("tests", "bench", "sharing", "runs")
RESERVE = 30.0
"""Seconds that a run needs to start, or to save itself and stop."""
GRACE = 10.0
"""Seconds that whatever is asked to stop has for it."""


class Slice:
    """The time that is left."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def over(self) -> bool:
        """Whether it is too late to begin anything."""
        return self.left < RESERVE

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> int:
        """Exit code of a command of this Python, which is asked to stop when the time is nearly up, and then killed."""
        print("$", *command, flush=True)
        process = subprocess.Popen([sys.executable, *command], cwd=FOLDER, env=environment)
        try:
            return process.wait(max(self.left - GRACE, 1))
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            return TIME_IS_UP


def main(
    minutes: Annotated[float, typer.Option(min=1, help="of this slice")] = 9,
    name: Annotated[str, typer.Option("--study", help="whose runs to make")] = FULL,
    device: str = "cuda",
    steps: Annotated[str, typer.Option(help="what to do, in this order")] = ",".join(STEPS),
    parts: Annotated[str, typer.Option(help="of the study")] = ",".join(PARTS),
    jobs: Annotated[int, typer.Option(min=1, help="runs side by side on the device")] = 4,
    way: Annotated[
        str | None, typer.Option(help="they share it: turns or mps; default: what was measured best")
    ] = None,
    pack: Annotated[Path | None, typer.Option(help="also pack results into this .tar.gz")] = None,
) -> None:
    """Do what is left, as far as the time goes."""
    chosen = steps.split(",")
    if unknown := set(chosen) - set(STEPS):
        raise typer.BadParameter(f"--steps: {min(unknown)} is none of {', '.join(STEPS)}")
    if way not in (None, *sharing.WAYS):
        raise typer.BadParameter(f"--way: {way} is none of {', '.join(sharing.WAYS)}")
    piece, code = Slice(minutes), 0
    try:
        for step in chosen:
            if not code and step != "runs":
                code = _once(piece, step, device)
            elif not code:
                with sharing.WAYS[way or sharing.best_way(BENCH / "sharing.json", jobs)]() as environment:
                    code = _runs(piece, name, parts.split(","), jobs, environment)
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    if pack is not None:
        with tarfile.open(pack, "w:gz") as packed:
            for folder in (BENCH, FOLDER / "results" / name):
                if folder.is_dir():
                    packed.add(folder, folder.relative_to(FOLDER), filter=_small)
    print(
        {0: "nothing is left to do", TIME_IS_UP: "time is up; the same command goes on"}.get(code, "failed, see above")
    )
    raise typer.Exit(code)


def _small(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Everything but logits."""
    return None if member.name.endswith("logits.safetensors") else member


def _once(piece: Slice, step: str, device: str) -> int:
    """Tests or a benchmark, unless their result lies here; the exit code."""
    made, command = {
        # After a graph that failed PyTorch may fail everywhere, so only the first failure tells anything.
        "tests": ("gpu_tests.xml", ("pytest", "--exitfirst", "--junitxml={}", *(f"tests/{test}" for test in TESTS))),
        "bench": (
            "gpu.json" if device == "cuda" else "cpu.json",
            ("coopnet", "bench", "--device", device, "--repetitions", "3"),
        ),
        "sharing": ("sharing.json", ("benchmarks.sharing", "--device", device, "--out", "{}")),
    }[step]
    if (BENCH / made).is_file():
        return 0
    BENCH.mkdir(parents=True, exist_ok=True)
    unfinished = BENCH / f".{made}"  # under this name until the tests have passed, or all ways to share are measured
    code = piece.run("-m", *(argument.format(unfinished) for argument in command))
    if not code and unfinished.is_file():
        unfinished.replace(BENCH / made)
    return code


def _runs(piece: Slice, name: str, parts: Sequence[str], jobs: int, environment: Mapping[str, str]) -> int:
    """The runs of some parts, seed by seed, parents first, several at once; each leases its part of the device."""
    environment = {leases.RUNS_PER_GPU: str(jobs), **environment}
    plan = study.load(FOLDER, name)
    todo = [run for run in _in_order(plan, parts) if not _done(plan, run)]
    finished = {run.key for run in plan.runs.values() if _done(plan, run)}
    working: dict[Future[int], Run] = {}
    code = 0
    with ThreadPoolExecutor(jobs) as pool:
        while working or (todo and not code and not piece.over()):
            ready = [run for run in todo if all(parent.key in finished for parent in run.parents)]
            for run in ready[: jobs - len(working)] if not code and not piece.over() else ():
                todo.remove(run)
                working[pool.submit(_make, piece, name, run, environment)] = run
            done, _ = wait(working, return_when=FIRST_COMPLETED)
            for future in done:
                run, ended = working.pop(future), future.result()
                finished |= set() if ended else {run.key}
                code = code if ended in (0, TIME_IS_UP) and code else ended or code
    return code or (TIME_IS_UP if todo else 0)


def _in_order(plan: Study, parts: Sequence[str]) -> list[Run]:
    """The runs of some parts and what they need, all of the first seed first."""
    chosen: dict[tuple[str, int], Run] = {}

    def add(run: Run) -> None:
        for parent in run.parents:
            add(parent)
        chosen.setdefault((run.experiment, run.seed), run)

    for run in sorted(plan.runs.values(), key=lambda run: run.seed):
        if run.row.part in parts:
            add(run)
    return list(chosen.values())


def _done(plan: Study, run: Run) -> bool:
    """Whether a run was made and evaluated as planned."""
    folder = Workspace(FOLDER).run(plan, run)
    return files.look(folder / "run.json", "key") == run.key and all((folder / name).is_file() for name in EVALUATED)


def _make(piece: Slice, name: str, run: Run, environment: Mapping[str, str]) -> int:
    """Train a run as long as there is time, and evaluate it; the exit code."""
    minutes = max(piece.left - RESERVE, 0) / 60
    which = (name, run.experiment, str(run.seed))
    command = ("-m", "coopnet", "train", *which, "--evaluate", "--max-minutes", f"{minutes:.2f}")
    return piece.run(*command, environment=environment)


if __name__ == "__main__":
    typer.run(main)
