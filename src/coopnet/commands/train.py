"""`coopnet train`: make one run, or take it from the store if it was ever made."""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from coopnet import study
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError, RecordingFailed, TrainingFailed
from coopnet.runs import failures, leases, records, sources, store
from coopnet.runs.live import Pulse
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study
from coopnet.study.settings import GROWING, JOINING

log = logging.getLogger(__name__)

LAUNCH = "COOPNET_LAUNCH"  # of networks.streams, which needs torch
TIME_IS_UP = 75  # EX_TEMPFAIL of sysexits.h: the same command again continues


def train(
    workspace: Workspace, name: str, experiment: str, seed: int, key: str | None, max_minutes: float | None
) -> int:
    """Make a run and put its files where they belong; return the exit code.

    Args:
        workspace: where.
        name: of the study.
        experiment: of the run.
        seed: of the run.
        key: what the caller takes the run's key to be; refused if it is not.
        max_minutes: stop cleanly after so many minutes.
    """
    plan = study.load(workspace.root, name)
    return make(workspace, plan, plan.run(experiment, seed), key, Stop(max_minutes))


def transfer(workspace: Workspace, name: str, experiment: str, seed: int, key: str | None) -> Run:
    """Build the network that a run starts from, out of its parents' checkpoints, and put its files in place.

    Returns:
        What was made: the transfer that the run begins with, or the run itself where it is not trained further.

    Raises:
        CoopNetError: the run starts from no transfer; or as `train`.
    """
    plan = study.load(workspace.root, name)
    run = plan.run(experiment, seed)
    if run.transfer is None and run.row.start.kind not in (*GROWING, *JOINING):
        raise CoopNetError(
            f"{run.name} has start {run.row.start.kind}, which transfers nothing; run `coopnet train` for it"
        )
    made = run.transfer or run
    make(workspace, plan, made, key, Stop(None))
    return made


def make(workspace: Workspace, plan: Study, run: Run, key: str | None, stop: "Stop") -> int:
    """Make a run or a transfer, or take it from the store; return the exit code."""
    if key is not None and key != run.key:
        raise CoopNetError(
            f"{run.name} of study {plan.name} has changed since the workflow was started "
            f"(params.yaml, an overlay or the source was edited); start the workflow again"
        )
    runs = Store(store.default_place(workspace.root))
    with _held(runs, run, stop) as held:
        if not held:
            return _late(run)
        if _without_training(workspace, plan, run, runs):
            return 0
        return _make(workspace, plan, run, runs, stop)


def go_on(failed: RecordingFailed, arguments: Sequence[str], max_minutes: float | None) -> NoReturn:
    """Replace this process, whose GPU is of no more use to it, by a fresh one that makes the run in the next mode.

    Args:
        failed: what could not be recorded, and the next mode.
        arguments: of `coopnet`.
        max_minutes: that are left.
    """
    name = "/".join(arguments[1:4])
    log.warning(
        "%s: no CUDA graph could be recorded in the mode %s (%s); the run goes on in a fresh process with %s=%s",
        *(name, failed.mode, failed.reason, LAUNCH, failed.following),
    )
    limit = [] if max_minutes is None else ["--max-minutes", str(max(max_minutes, 0.0))]
    sys.stdout.flush()
    sys.stderr.flush()
    os.closerange(3, 65_536)  # the lock of the run, the lease of the GPU, and the GPU itself
    environment = os.environ | {LAUNCH: failed.following}
    os.execve(sys.executable, [sys.executable, "-m", "coopnet", *arguments, *limit], environment)


def _late(run: Run) -> int:
    log.warning("%s: another process is still on it at the time limit", run.name)
    return TIME_IS_UP


def _without_training(workspace: Workspace, plan: Study, run: Run, runs: Store) -> bool:
    """Put a run in place that was made before; False if it has to be trained."""
    if runs.take(run.key, targets(workspace, plan, run)):
        shutil.rmtree(runs.unfinished(run.key), ignore_errors=True)  # of who was killed when all was done
        failures.clear(workspace, plan, run)
        log.info("%s: taken from the run store, nothing to train", run.name)
        return True
    if records.of_run(workspace, plan, run, Digests()) is None:
        failures.clear(workspace, plan, run)
        runs.adopt(run.key, targets(workspace, plan, run))
        log.info("%s: lies here finished, nothing to train", run.name)
        return True
    return False


def _leased(plan: Study, run: Run, stop: "Stop") -> bool:
    """Lease a GPU for this process if the study needs one; False if none was free until the time limit."""
    if plan.device != "cuda" or leases.take(run.name, stop.seconds_left()):
        return True
    log.warning("%s: no GPU was free until the time limit", run.name)
    return False


@contextmanager
def _held(runs: Store, run: Run, stop: "Stop") -> Iterator[bool]:
    """Hold the lock of a run; False if another process kept it until the time limit."""
    lock = runs.lock(run.key)
    try:
        yield store.acquire(lock, run.name, stop.seconds_left())
    finally:
        lock.release()


def _make(workspace: Workspace, plan: Study, run: Run, runs: Store, stop: "Stop") -> int:
    """Train a run into the store and put it in place; return the exit code."""
    # Looked up before torch is imported, which takes seconds: a missing parent should be heard of at once.
    ancestors = [sources.checkpoint_of(workspace, plan, source, runs) for source in run.sources]
    if run.row.start.kind == "imported":
        ancestors = [sources.imported_files(workspace, run)]
    if not _leased(plan, run, stop):
        return TIME_IS_UP

    from coopnet.data import canonical
    from coopnet.runs.job import produce
    from coopnet.training.trainer import Interrupted

    dataset = run.dataset
    memory = runs.unfinished(run.key)
    name = f"{plan.name}/{run.name}"

    def begun(epoch: int, done: int) -> None:
        runs.note("resumed" if epoch or done else "trained", run.key, name)

    progress, close = _progress(run.name, begun)
    pulse = Pulse(progress, memory)
    try:
        with stop.listening(), _failing(workspace, plan, run):
            made = produce(
                run,
                arrays=canonical.load(workspace.prepared(dataset.name), dataset),
                class_names=canonical.class_names(workspace.prepared(dataset.name), dataset),
                ancestors=ancestors,
                device_kind=plan.device,
                folder=memory,
                progress=pulse,
                stop=stop,
            )
    except Interrupted as interruption:
        log.warning("%s: %s. Saved; the same command again continues", run.name, interruption)
        return stop.exit_code
    except RecordingFailed:
        raise  # another process goes on
    except CoopNetError as error:
        raise CoopNetError(f"{run.name}: {error}") from error
    finally:
        pulse.close()
        close()
    runs.add(run.key, made)
    runs.note("finished", run.key, name)
    shutil.rmtree(memory, ignore_errors=True)
    if _planned(study.load(workspace.root, plan.name), run).key != run.key:
        raise CoopNetError(
            f"the parameters of {run.name} were edited while it was trained; its result is kept in the run store "
            "under the parameters it was trained with. Run the same command again for the new ones"
        )
    if not runs.take(run.key, targets(workspace, plan, run)):
        raise CoopNetError(f"the result of {run.name} was damaged while it was written; run the same command again")
    return 0


def _planned(plan: Study, run: Run) -> Run:
    """The run, or the transfer, as another reading of the study has it."""
    now = plan.run(run.experiment, run.seed)
    return now.transfer or now if run.at_transfer else now


@contextmanager
def _failing(workspace: Workspace, plan: Study, run: Run) -> Iterator[None]:
    """Leave a record of why the run failed, if it does.

    Raises:
        TrainingFailed: it did.
    """
    from coopnet.training.device import out_of_memory

    failures.clear(workspace, plan, run)  # it is being tried again
    try:
        yield
    except TrainingFailed as error:
        failures.leave(workspace, plan, run, error)
        raise
    except (RuntimeError, MemoryError) as error:
        said = out_of_memory(error)
        if said is None:
            raise
        failed = TrainingFailed(
            f"no memory left on {plan.device} before the first epoch or after the last: lower model.width, or let "
            f"fewer runs share the device ({said}). What was trained is kept.",
            "out_of_memory",
        )
        failures.leave(workspace, plan, run, failed)
        raise failed from error


class Stop:
    """A reason to stop: a signal, or the time.

    Attributes:
        exit_code: of the reason; 0 as long as there is none.
    """

    def __init__(self, max_minutes: float | None):
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.exit_code = 0

    def __call__(self) -> str | None:
        """The reason, if there is one by now."""
        if not self.exit_code and self.deadline is not None and time.monotonic() >= self.deadline:
            self.exit_code = TIME_IS_UP
        if not self.exit_code:
            return None
        if self.exit_code == TIME_IS_UP:
            return "stopped at the time limit"
        return f"stopped by {signal.Signals(self.exit_code - 128).name}"

    def seconds_left(self) -> float:
        """Until the time limit; -1 (which a lock takes for ever) without one."""
        return -1 if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code:
            if number == signal.SIGINT:  # asked twice: go at once; what was saved last is still there
                raise KeyboardInterrupt
            return  # schedulers say SIGTERM more than once, to each process and through `srun`, and mean it once
        self.exit_code = 128 + number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM finish the step instead of killing it."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _progress(name: str, begun: Callable[[int, int], None]) -> tuple[Any, Callable[[], None]]:
    from rich.console import Console

    from coopnet.training.progress import Bar, EpochLines

    if not sys.stderr.isatty():
        return EpochLines(name, begun), lambda: None
    bar = Bar(name, Console(stderr=True), begun)
    return bar, bar.close
