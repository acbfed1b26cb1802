"""One run's life: its lock, the store, the lease of a GPU, its training, and its files in the workspace."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from coopnet import files, study
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError, RecordingFailed
from coopnet.runs import failures, leases, records, sources, store
from coopnet.runs.live import LiveWriter
from coopnet.runs.stop import TIME_IS_UP, Stop
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

log = logging.getLogger(__name__)


def make(workspace: Workspace, plan: Study, run: Run, key: str | None, stop: Stop) -> int:
    """Make a run or a transfer, or copy it from the store.

    Args:
        workspace: receives the run's files.
        plan: the study.
        run: the run, or the transfer that a run begins with.
        key: the key that the caller expects; None for any.
        stop: the time limit and signals.

    Returns:
        The exit code: 0 if the run is finished, otherwise that of the reason to stop.

    Raises:
        CoopNetError: the run has another key, an input is missing, or its parameters were edited during the training.
        TrainingFailed: the training failed; the reason is recorded.
        RecordingFailed: no CUDA graph could be recorded in this launch mode; `restart` continues in the next one.
    """
    if key is not None and key != run.key:
        raise CoopNetError(
            f"{run.name} of study {plan.name} has changed since the workflow was started "
            f"(params.yaml, an overlay or the source was edited); start the workflow again"
        )
    runs = Store(store.default_place(workspace.root))
    with _locked(runs, run, stop) as locked:
        if not locked:
            log.warning("%s: another process was still training it at the time limit", run.name)
            return TIME_IS_UP
        if _copy_finished(workspace, plan, run, runs):
            return 0
        return _train(workspace, plan, run, runs, stop)


def restart(failed: RecordingFailed, arguments: Sequence[str], max_minutes: float | None) -> NoReturn:
    """Replace this process by a new one that continues in the next launch mode.

    After a failed CUDA-graph recording this process can no longer use its GPU.

    Args:
        failed: the error, with the failed and the next mode.
        arguments: the arguments of `coopnet`.
        max_minutes: the time that is left; None for no limit.
    """
    from coopnet.networks.streams import LAUNCH

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


@contextmanager
def _locked(runs: Store, run: Run, stop: Stop) -> Iterator[bool]:
    """Hold the lock of a run; False if another process held it until the time limit."""
    lock = runs.lock(run.key)
    try:
        yield store.acquire(lock, run.name, stop.seconds_left())
    finally:
        lock.release()


def _copy_finished(workspace: Workspace, plan: Study, run: Run, runs: Store) -> bool:
    """Copy the finished run from the store to the workspace or back; False if it has to be trained."""
    stored = runs.folder(run.key) / records.RECORD
    if other := records.other_source(workspace, plan, run, stored):
        log.warning("%s in the run store was made from other weights of %s than those here", run.name, other)
    elif runs.restore(run.key, targets(workspace, plan, run)):
        # A process that was killed after the run was finished left its state.
        shutil.rmtree(runs.unfinished(run.key), ignore_errors=True)
        files.remove(workspace.failure(plan, run))
        log.info("%s: taken from the run store, nothing to train", run.name)
        return True
    if records.check_run(workspace, plan, run, Digests()) is None:
        files.remove(workspace.failure(plan, run))
        runs.add_copy(run.key, targets(workspace, plan, run))
        log.info("%s: already finished in this workspace, nothing to train", run.name)
        return True
    return False


def _train(workspace: Workspace, plan: Study, run: Run, runs: Store, stop: Stop) -> int:
    """Train a run into the store and copy it to the workspace; return the exit code."""
    # Parents are looked up before torch is imported (seconds), so that a missing parent is reported at once.
    ancestors = [sources.checkpoint_of(workspace, plan, source, runs) for source in run.sources]
    if run.row.start.kind == "imported":
        ancestors = [sources.imported_files(workspace, run)]
    if plan.device == "cuda" and not leases.acquire(run.name, stop.seconds_left()):
        log.warning("%s: no GPU was free until the time limit", run.name)
        return TIME_IS_UP

    from coopnet.training.trainer import Interrupted

    try:
        made = _produce(workspace, plan, run, runs, ancestors, stop)
    except Interrupted as interruption:
        log.warning("%s: %s. Saved; the same command again continues", run.name, interruption)
        return stop.exit_code
    except RecordingFailed:
        raise  # `restart` continues the run
    except CoopNetError as error:
        raise CoopNetError(f"{run.name}: {error}") from error
    runs.add(run.key, made)
    runs.log_event("finished", run.key, f"{plan.name}/{run.name}")
    shutil.rmtree(runs.unfinished(run.key), ignore_errors=True)
    if _planned(study.load(workspace.root, plan.name), run).key != run.key:
        raise CoopNetError(
            f"the parameters of {run.name} were edited while it was trained; its result is kept in the run store "
            "under the parameters it was trained with. Run the same command again for the new ones"
        )
    if not runs.restore(run.key, targets(workspace, plan, run)):
        raise CoopNetError(f"the result of {run.name} was damaged while it was written; run the same command again")
    return 0


def _produce(
    workspace: Workspace, plan: Study, run: Run, runs: Store, ancestors: list[tuple[Path, dict[str, Any]]], stop: Stop
) -> Path:
    """Train a run, with its progress in the store and on the terminal; return the folder of its files."""
    from coopnet.data import canonical
    from coopnet.runs.job import produce

    dataset, folder = run.dataset, runs.unfinished(run.key)

    def begun(epoch: int, done: int) -> None:
        runs.log_event("resumed" if epoch or done else "trained", run.key, f"{plan.name}/{run.name}")

    progress, close = _progress(run.name, begun)
    writer = LiveWriter(progress, folder)
    try:
        with stop.listening(), failures.recorded(workspace, plan, run):
            return produce(
                run,
                arrays=canonical.load(workspace.prepared(dataset.name), dataset),
                class_names=canonical.class_names(workspace.prepared(dataset.name), dataset),
                ancestors=ancestors,
                device_kind=plan.device,
                folder=folder,
                progress=writer,
                stop=stop,
            )
    finally:
        writer.close()
        close()


def _planned(plan: Study, run: Run) -> Run:
    """The run, or the transfer, of the same experiment and seed in another reading of the study."""
    now = plan.run(run.experiment, run.seed)
    return now.transfer or now if run.at_transfer else now


def _progress(name: str, begun: Callable[[int, int], None]) -> tuple[Any, Callable[[], None]]:
    """The progress of a run for the terminal, and a function that ends it."""
    from rich.console import Console

    from coopnet.training.progress import Bar, EpochLines

    if not sys.stderr.isatty():
        return EpochLines(name, begun), lambda: None
    bar = Bar(name, Console(stderr=True), begun)
    return bar, bar.close
