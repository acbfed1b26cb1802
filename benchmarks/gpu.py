"""A quarter of an hour on a GPU, in two parts, on a machine where nothing can be installed.

    python3 -m benchmarks.gpu a --out OUT                # 220 s: is it right, and how fast is it?
    python3 -m benchmarks.gpu b --out OUT --seconds 500  # the rest: runs of the study, chosen by what A measured

Both run in the folder into which the bundles of `benchmarks.bundle` were unpacked, or in a checkout. A writes a log,
the results of the tests, speeds and a profile; B reads its summary, `results/bench/gpu_first.json`. After every run B
writes all its results anew, in files of at most 15 MiB, which `python -m benchmarks.bundle bring OUT` unpacks at home.
"""

import argparse
import heapq
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import bundle

if TYPE_CHECKING:  # pydantic is missing until the wheels are unpacked
    from coopnet.study import Run, Study

FOLDER = Path(__file__).parent.parent
FIRST = FOLDER / "results" / "bench" / "gpu_first.json"
"""The measurements of part A."""
TIME_IS_UP = 75
"""Exit code of `coopnet train` at its time limit, and of a command that was stopped here."""
MODES = ("graph", "serial", "eager")
"""Launch modes of a GPU, fastest first; see `coopnet.training.graph`."""
GRACE = 10.0
"""Seconds that a command has to stop after it was asked to."""
TESTS_GRACE = 20.0
"""The same for pytest, which then ends its workers and writes what they found."""
RESERVE = 30.0
"""Seconds before the end of part B at which its runs save their state and stop."""
START = 20.0
"""Estimated seconds of a run besides its epochs: imports, recording, logits, checkpoint, metrics."""
WORTH_BEGINNING = 60.0
"""Least number of seconds for which a run is begun although it cannot be finished; its state is brought back."""

TESTS = (
    ("graph", "(graph- and bf16 or never_waits)", 0.32),
    ("serial", "serial- and bf16", 0.3),
    ("fp32", "graph- and fp32", 0.2),
)
"""The GPU tests: a name, pytest's choice, and the share of the time that they may take.

After a failed recording a process can no longer use its GPU. So the tests of each launch mode have processes of their
own. Those of fp32 choose no mode, because the studies for GPUs train in bf16.
"""
FIRST_USE = """
import torch
images = torch.ones(8, 3, 32, 32, device="cuda", requires_grad=True)
with torch.autocast("cuda", torch.bfloat16):
    torch.nn.Conv2d(3, 8, 3, device="cuda")(images).float().sum().backward()
torch.cuda.synchronize()
"""
"""The program that loads PyTorch and cuDNN for the first time."""
ENDING = 8.0
"""Seconds of part A for its summary and the description of the machine."""

WORTH = (
    *("one3", "baseline", "one3_to_5_split", "one3_to_5_masked", "one3_to_5_zero_output", "one3_to_5_zero_pad"),
    *("one3_continued", "one5", "one1"),
)
"""Experiments that are made first, with all their seeds."""
PARTS = ("foundation", "step2")
"""Parts of the study whose other experiments follow."""


class Slice:
    """The remaining time."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def run(
        self,
        *command: str,
        most: float = 1e9,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stop: signal.Signals = signal.SIGTERM,
        grace: float = GRACE,
    ) -> int:
        """Run a command of this Python and return its exit code; when its time is up it is asked to stop, then killed.

        Args:
            command: the arguments of `python`.
            most: seconds that it may take, if they are left.
            log: file for its output; None: this process's output.
            environment: of the command.
            stop: the signal that asks it to stop.
            grace: seconds that it then has.
        """
        print("$", *command, flush=True)
        end = time.monotonic() + min(most, self.left)
        with log.open("ab") if log else nullcontext() as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=FOLDER,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
            )
            try:
                return process.wait(max(end - grace - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                process.send_signal(stop)
                try:
                    process.wait(grace)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                return TIME_IS_UP


def ready() -> dict[str, str]:
    """Make the package and its wheels importable, in this process and in the returned environment."""
    paths = [str(FOLDER / "src"), str(FOLDER), str(bundle.unzip_wheels(FOLDER))]
    sys.path[:0] = [path for path in paths if path not in sys.path]
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])])}
    environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    commit = FOLDER / bundle.COMMIT
    if commit.is_file():
        environment |= {"COOPNET_COMMIT": commit.read_text().strip(), "COOPNET_STORE": str(FOLDER / "store")}
    os.environ.update(environment)
    return environment


# Part A


def a(out: Path, device: str, seconds: float, images: int, test_images: int, jobs: int) -> int:
    """Environment, GPU tests, speed of three models, a profile, and parallel runs; returns the exit code.

    Args:
        out: folder for files that are brought back.
        device: cuda, or cpu to test this script.
        seconds: total time.
        images: training images per epoch.
        test_images: test images per epoch.
        jobs: number of parallel runs.
    """
    piece, environment, out = Slice(seconds), ready(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    log, mode, failed = out / "a.log", MODES[-1], list[str]()
    if device == "cuda":  # the libraries come from a cold disk, which the tests' time is not meant for
        piece.run("-c", FIRST_USE, most=0.15 * seconds, log=log, environment=environment)
    for kind, choice, share in TESTS if device == "cuda" else ():
        if kind == "serial" and mode == "graph":
            continue
        tests = out / f"gpu_tests_{kind}.xml"
        patience: dict[str, Any] = {"stop": signal.SIGINT, "grace": TESTS_GRACE}
        piece.run(*test_command(tests, choice), most=share * seconds, log=log, environment=environment, **patience)
        works, bad = outcome(tests)
        failed += bad
        if works and kind in MODES:
            mode = kind
    print(f"launch mode {mode}; failed tests: {', '.join(failed) or 'none'}", flush=True)
    sizes = ("--device", device, "--images", str(images), "--test-images", str(test_images))
    speed = ("-m", "benchmarks.speed", *sizes, "--out", str(out))
    environment |= {"COOPNET_LAUNCH": mode}
    piece.run(*speed, most=0.22 * seconds, log=log, environment=environment)
    while not (out / "speed.json").is_file() and mode != MODES[-1]:  # the tests have recorded small networks alone
        failed.append(f"benchmarks.speed in launch mode {mode}")
        mode = MODES[MODES.index(mode) + 1]
        environment |= {"COOPNET_LAUNCH": mode}
        piece.run(*speed, most=0.22 * seconds, log=log, environment=environment)
    # The smaller last batch of an epoch would be recorded in the fourth epoch.
    counts = ("--counts", f"1,{jobs}", "--epochs", "3", "--repetitions", "1", "--best-way", "--patience", "30")
    sharing = ("-m", "benchmarks.sharing", *sizes, *counts, "--out", str(out / "sharing.json"))
    piece.run(*sharing, most=piece.left - ENDING, log=log, environment=environment)
    summary = {"launch": mode, "failed_tests": failed}
    summary |= {name: read(out / f"{name}.json") for name in ("speed", "sharing")}
    text = json.dumps(summary, indent=1) + "\n"
    for path in (out / FIRST.name, FIRST):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    describe(log, environment)
    if summary["speed"]:
        print("\n".join(forecast(Pace.read(summary))), flush=True)
    return 0 if summary["speed"] and not failed else 1


def describe(path: Path, environment: Mapping[str, str]) -> None:
    """Add a description of the machine to a log; errors of the commands are recorded too."""
    commands = [["nvidia-smi"], ["nvidia-smi", "-L"], ["which", "nvidia-cuda-mps-control"], ["nproc"], ["free", "-g"]]
    commands += [[sys.executable, "-m", "pip", "list", "--format", "freeze"]]
    commands += [[sys.executable, "-c", "import torch; print(torch.__config__.show())"]]
    with path.open("a") as file:
        for command in commands:
            try:
                done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=10)
                output = done.stdout + done.stderr
            except (OSError, subprocess.TimeoutExpired) as error:
                output = f"{error}\n"
            file.write(f"$ {' '.join(command)}\n{output}\n")


def test_command(junit: Path, choice: str) -> list[str]:
    """The command of some of the GPU tests; other tests would test this machine's Python and not the GPU."""
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-k", f"gpu and {choice}", f"--junitxml={junit}", *gpu_tests()]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "5"]
    if importlib.util.find_spec("pytest_timeout"):  # a hanging graph blocks its thread, so the process is ended
        command += ["--timeout", "60", "--timeout-method", "thread"]
    return command


def gpu_tests() -> list[str]:
    """The files with GPU tests."""
    found = sorted((FOLDER / "tests").rglob("test_graph.py")) + sorted((FOLDER / "tests").rglob("test_gpu.py"))
    return [str(path.relative_to(FOLDER)) for path in found]


def outcome(junit: Path) -> tuple[bool, list[str]]:
    """Whether some of the tests passed and none failed, and the names of the failed tests.

    A test that was under way when pytest was stopped has no name in the report, and does not count.
    """
    try:
        cases = [case for case in ET.parse(junit).getroot().iter("testcase") if case.get("name")]
    except (OSError, ET.ParseError):
        return False, [f"the tests have no results in {junit.name}"]
    bad = [case.get("name", "") for case in cases if any(e.tag in ("failure", "error") for e in case)]
    if not cases:
        return False, [f"no test of {junit.name} finished"]
    return not bad and any(not len(case) for case in cases), bad


def read(path: Path) -> Any:
    """The JSON in a file, or None."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


# How long runs take


class Pace(NamedTuple):
    """The training speed of networks on this machine.

    Attributes:
        branches: of the measured networks, ascending.
        images_per_second: of each, in training, alone.
        evaluation_seconds: of each, after an epoch.
        lanes: number of parallel runs that were measured; 1 if none were.
        ratio: their total speed relative to one run alone.
        way: how they shared the device.
    """

    branches: list[int]
    images_per_second: list[float]
    evaluation_seconds: list[float]
    lanes: int = 1
    ratio: float = 1.0
    way: str = "turns"

    @classmethod
    def read(cls, summary: Mapping[str, Any]) -> "Pace":
        """The measurements of part A."""
        models = sorted(summary["speed"]["models"].values(), key=lambda model: model["branches"])
        speeds = [model["images_per_second"] for model in models]
        own = cls([model["branches"] for model in models], speeds, [model["evaluation_seconds"] for model in models])
        for way, found in ((summary["sharing"] or {}).get("ways") or {}).items():
            for count, one in found.get("runs", {}).items():
                if one["ratio"] > own.ratio:
                    own = own._replace(lanes=int(count), ratio=one["ratio"], way=way)
        return own

    def epoch(self, branches: int, images: int) -> float:
        """Seconds of an epoch with its evaluation, for one run alone; interpolated between measured networks."""
        seconds = [
            images / speed + more for speed, more in zip(self.images_per_second, self.evaluation_seconds, strict=True)
        ]
        return interpolated(branches, self.branches, seconds)

    def slowdown(self, lanes: int) -> float:
        """Factor by which a run takes longer beside the others."""
        return 1.0 if lanes == 1 else self.lanes / self.ratio


def interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Linear interpolation between the two nearest points; extrapolation beyond the last ones."""
    if len(xs) == 1:
        return ys[0]
    i = max(1, min(len(xs) - 1, sum(known < x for known in xs)))
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


class Job(NamedTuple):
    """A run to be made: its key, those of its parents, and the seconds that it takes alone."""

    key: str
    parents: frozenset[str]
    seconds: float


def next_job(jobs: Sequence[Job], finished: set[str], seconds: float, slowdown: float) -> Job | None:
    """The first job whose parents are finished and which can be finished in that time."""
    fitting = (job for job in jobs if job.parents <= finished and job.seconds * slowdown <= seconds)
    return next(fitting, None)


def finishing(jobs: Sequence[Job], finished: set[str], seconds: float, lanes: int, slowdown: float) -> list[bool]:
    """Which jobs end in that time with this number of parallel lanes, if each is begun only if it can be finished."""
    todo, have, now = list(jobs), set(finished), 0.0
    working: list[tuple[float, str]] = []
    while True:
        while len(working) < lanes and (job := next_job(todo, have, seconds - now, slowdown)):
            todo.remove(job)
            heapq.heappush(working, (now + job.seconds * slowdown, job.key))
        if not working:
            return [job.key in have for job in jobs]
        now, key = heapq.heappop(working)
        have.add(key)


def best_lanes(jobs: Sequence[Job], finished: set[str], seconds: float, pace: Pace) -> int:
    """The number of lanes with which the most important jobs are finished, and then as many others as possible."""
    choices = {n: finishing(jobs, finished, seconds, n, pace.slowdown(n)) for n in sorted({1, pace.lanes})}
    return max(choices, key=lambda lanes: (choices[lanes], -lanes))


def in_order_of_worth(plan: "Study") -> list["Run"]:
    """The runs of part B, each after its ancestors: those of `WORTH` seed by seed, then the others."""
    chosen: dict[tuple[str, str, int], Run] = {}

    def add(run: "Run") -> None:
        for before in (*run.parents, *run.sources):
            add(before)
        chosen.setdefault((run.phase, run.experiment, run.seed), run)

    def worth(run: "Run") -> tuple[bool, int, int]:
        known = run.experiment in WORTH
        return not known, run.seed, WORTH.index(run.experiment) if known else 0

    for run in sorted(plan.runs.values(), key=worth):
        if run.row.part in PARTS:
            add(run)
    return list(chosen.values())


def done(plan: "Study", run: "Run") -> bool:
    """Whether a run was made and evaluated as planned."""
    from coopnet import files
    from coopnet.runs.workspace import EVALUATED, Workspace

    folder = Workspace(FOLDER).run(plan, run)
    return files.read_field(folder / "run.json", "key") == run.key and all(
        (folder / name).is_file() for name in EVALUATED
    )


def jobs_of(plan: "Study", pace: Pace, place: Path) -> tuple[list[Job], set[str]]:
    """The runs of a study that are due, and the keys of finished ones."""
    from coopnet.runs.store import Store
    from coopnet.study import costs

    runs, jobs = in_order_of_worth(plan), []
    finished = {run.key for run in runs if done(plan, run)}
    for run in runs:
        if run.key not in finished:
            images = costs.training_images(run.row, run.dataset)
            epochs = max(run.row.training.epochs - (Store(place).epochs_done(run.key) or 0), 0)
            seconds = START + epochs * pace.epoch(run.row.model.branches, images)
            jobs.append(Job(run.key, frozenset(source.key for source in run.sources), seconds))
    return jobs, finished


def forecast(pace: Pace, seconds: float = 480.0) -> Iterator[str]:
    """How much of each GPU study part B could finish, as a help to choose one."""
    from coopnet import study
    from coopnet.runs import store

    place = store.default_place(FOLDER)
    for name in study.names(FOLDER):
        plan = study.load(FOLDER, name)
        if plan.device == "cuda":
            jobs, finished = jobs_of(plan, pace, place)
            lanes = best_lanes(jobs, finished, seconds, pace)
            ends = finishing(jobs, finished, seconds, lanes, pace.slowdown(lanes))
            first = f"; the first takes {jobs[0].seconds:.0f} s" if jobs else ""
            yield f"{name}: {sum(ends)} of {len(jobs)} runs in {seconds:.0f} s, {lanes} at once{first}"


# Part B


def b(out: Path, seconds: float, name: str, data: Path) -> int:
    """Make runs of a study, most important first, as time allows, and pack all results; returns the exit code.

    Args:
        out: folder for files that are brought back.
        seconds: total time.
        name: of the study.
        data: folder of the Parquet shards.
    """
    piece, environment, out = Slice(seconds), ready(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    summary = read(FIRST)
    if not summary or not summary["speed"]:
        sys.exit(f"error: {FIRST} has no speeds: run part A first")
    from benchmarks import sharing
    from coopnet import study
    from coopnet.runs import store
    from coopnet.runs.leases import RUNS_PER_GPU

    plan, pace, place = study.load(FOLDER, name), Pace.read(summary), store.default_place(FOLDER)
    log = out / "runs.log"
    for dataset in sorted({run.row.data.dataset for run in in_order_of_worth(plan)}):
        source = ("--source", "parquet", "--root", str(data)) if dataset == "cifar100" else ()
        if piece.run("-m", "coopnet", "prepare", dataset, *source, log=log, environment=environment):
            print(log.read_text()[-2000:])
            sys.exit(f"error: {dataset} could not be prepared")
    jobs, finished = jobs_of(plan, pace, place)
    lanes = best_lanes(jobs, finished, piece.left - RESERVE, pace)
    environment |= {"COOPNET_LAUNCH": summary["launch"], RUNS_PER_GPU: str(lanes)}
    print(f"{len(jobs)} runs are due, {lanes} at once by {pace.way if lanes > 1 else 'turns'}", flush=True)
    runs = {run.key: run for run in plan.everything()}

    def make(job: Job, own: Mapping[str, str]) -> int:
        run = runs[job.key]
        which = (name, run.experiment, str(run.seed), "--evaluate")
        if run.at_transfer:
            return piece.run("-m", "coopnet", "transfer", *which, log=log, environment=own)
        limit = f"{max(piece.left - RESERVE, 0) / 60:.3f}"
        return piece.run("-m", "coopnet", "train", *which, "--max-minutes", limit, log=log, environment=own)

    def keep() -> None:
        with suppress(FileNotFoundError):  # a run beside it has just replaced a file; the next call packs it
            bundle.send_back(out, groups(plan, place, state=False))

    os.environ.update(environment)
    with sharing.shared(pace.way if lanes > 1 else "turns") as own:
        failed = work_off(piece, jobs, finished, lanes, pace.slowdown(lanes), lambda job: make(job, own), keep)
    for line in bundle.send_back(out, groups(plan, place)):
        print(f"left behind: {line}")
    lines = log.read_text().splitlines()
    print("\n".join([line for line in lines if "epoch" in line][-3 * lanes :]))
    for key in failed:
        print(f"failed: {runs[key].name}; see runs.log")
    return 1 if failed else 0


def work_off(
    piece: Slice,
    jobs: Sequence[Job],
    finished: set[str],
    lanes: int,
    slowdown: float,
    make: Callable[[Job], int],
    keep: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run jobs in parallel, and call `keep` after each finished one; return the keys of failed ones.

    A job is begun if it can be finished. When no job can be finished, the first possible one is begun: its state is
    kept.
    """
    todo, have, failed = list(jobs), set(finished), list[str]()
    working: dict[Future[int], Job] = {}
    with ThreadPoolExecutor(lanes) as pool:
        while True:
            while len(working) < lanes:
                left = piece.left - RESERVE
                job = next_job(todo, have, left, slowdown)
                if job is None and left >= WORTH_BEGINNING:
                    job = next((job for job in todo if job.parents <= have), None)
                if job is None:
                    break
                todo.remove(job)
                working[pool.submit(make, job)] = job
            if not working:
                return failed
            for future in wait(working, return_when=FIRST_COMPLETED)[0]:
                job, code = working.pop(future), future.result()
                have |= {job.key} if code == 0 else set()
                failed += [job.key] if code not in (0, TIME_IS_UP) else []
                if code == 0:
                    keep()


def groups(plan: "Study", place: Path, *, state: bool = True) -> Iterator[list[bundle.Item]]:
    """The files to bring back, most important first: results, unfinished `state`, then finished runs of the store."""
    small = [FOLDER / "results" / "bench", FOLDER / "checkpoints" / plan.name]
    paths = [path for folder in small for path in bundle.every_file(folder) if path.name not in bundle.LARGE]
    yield [bundle.Item(path, path.relative_to(FOLDER).as_posix()) for path in paths]
    stored = [place / "unfinished"] * state + [place / "runs" / run.key for run in in_order_of_worth(plan)]
    for folder in stored:
        items = [bundle.Item(p, f"store/{p.relative_to(place).as_posix()}") for p in bundle.every_file(folder)]
        if items:
            yield items


def main() -> int:
    """Read the command line with the standard library only, because typer may need packages from the wheels."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parts = parser.add_subparsers(required=True)
    first = parts.add_parser("a", help=(a.__doc__ or "").partition(";")[0])
    first.add_argument("--device", default="cuda", help="cuda, or cpu to test this script (%(default)s)")
    first.add_argument("--seconds", type=float, default=220, help="total time (%(default)s)")
    first.add_argument("--images", type=int, default=50_000, help="training images per epoch (%(default)s)")
    first.add_argument("--test-images", type=int, default=10_000, help="test images per epoch (%(default)s)")
    first.add_argument("--jobs", type=int, default=3, help="parallel runs (%(default)s)")
    first.set_defaults(part=a)
    second = parts.add_parser("b", help=(b.__doc__ or "").partition(";")[0])
    second.add_argument("--seconds", type=float, default=500, help="total time (%(default)s)")
    second.add_argument(
        "--study", dest="name", default="full", help="the study; or one with shorter runs (%(default)s)"
    )
    second.add_argument("--data", type=Path, default=FOLDER / "shards", help="folder of the Parquet shards")
    second.set_defaults(part=b)
    for part in (first, second):
        part.add_argument("--out", type=Path, required=True, help="folder for files that are brought back")
    arguments = vars(parser.parse_args())
    return arguments.pop("part")(**arguments)


if __name__ == "__main__":
    sys.exit(main())
