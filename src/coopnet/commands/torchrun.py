"""Several processes for one run, as torchrun starts them: by itself, or because a row asks for more than one."""

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coopnet.files.errors import CoopNetError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig

log = logging.getLogger(__name__)

LAUNCHER = "COOPNET_LAUNCHER"
"""Set to the process that started this one and speaks for it, where that is a `coopnet` itself."""

LOST = 76  # EX_PROTOCOL of sysexits.h: ended because another process of the run had ended
HEAD_START = 2  # seconds that the process which ended first has to be noticed first
GRACE = 300  # seconds that processes have to save what they did, once they are asked to stop

KEPT = "The state after the last epoch is kept; the same command again continues"


def started() -> bool:
    """Whether torchrun started this process."""
    return "WORLD_SIZE" in os.environ


def rank() -> int:
    """Of this process among those of its run, from 0."""
    return int(os.environ.get("RANK", 0))


def check(name: str, processes: int) -> None:
    """Refuse a number of processes that is not the row's, since it decides bits.

    Raises:
        CoopNetError: torchrun started more or fewer.
    """
    world = int(os.environ["WORLD_SIZE"]) if started() else processes
    if world != processes:
        raise CoopNetError(
            f"{name} has training.processes: {processes}, but torchrun started {world}; start `coopnet train` without "
            f"torchrun, or with {processes} processes in all (--nnodes times --nproc-per-node)"
        )


def orphaned() -> bool:
    """Whether the `coopnet` that started this process has died."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])


def failed(error: CoopNetError) -> int:
    """End one of several processes that cannot go on; give its exit code, once who started it knows the reason.

    Raises:
        CoopNetError: nobody else would tell the user.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if LAUNCHER not in os.environ:
        raise error
    get_error_handler().record_exception(error)
    return 1


def lost(name: str, error: Exception) -> int:
    """End one of several processes because another one is gone; give its exit code.

    Raises:
        CoopNetError: nobody else would tell the user.
    """
    if LAUNCHER not in os.environ:
        raise CoopNetError(f"{name}: another process of this run has ended ({error}). {KEPT}") from error
    time.sleep(HEAD_START)
    return LOST


def start(name: str, processes: int, arguments: Sequence[str], folder: Path) -> int:
    """Run a command of this package in several processes on this machine, to its end.

    Args:
        name: of the run, for messages.
        processes: how many.
        arguments: of the command line.
        folder: where.

    Returns:
        The exit code.

    Raises:
        CoopNetError: one of the processes died.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    log.info("%s: %d processes", name, processes)
    logging.disable(logging.ERROR)  # torchrun tells of ends that the processes tell of themselves
    try:
        with contextlib.chdir(folder), tempfile.TemporaryDirectory(prefix="coopnet-") as notes:
            config = _on_this_machine(processes, notes)
            elastic_launch(config, sys.executable)("-m", "coopnet", *arguments)
    except SignalException as stopped:
        return 128 + stopped.sigval.value
    except ChildFailedError as error:
        return _explained(name, error.failures)
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[LAUNCHER]
    return 0


def _on_this_machine(processes: int, notes: str) -> "LaunchConfig":
    """What `torchrun --standalone` does, without another attempt; the errors of processes are kept in `notes`."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"coopnet-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # the same command again continues
        shutdown_timeout=GRACE,
        logs_specs=DefaultLogsSpecs(log_dir=notes),
    )


def _explained(name: str, failures: Mapping[int, "ProcessFailure"]) -> int:
    """The exit code of processes of which some failed.

    Raises:
        CoopNetError: what the first one said that could say why; or who was killed.
    """
    by_time = sorted(failures.values(), key=lambda failure: failure.timestamp)
    for failure in by_time:
        message = failure.error_file_data.get("message")
        if isinstance(message, dict):  # of `failed`, after the name of the exception
            raise CoopNetError(message["message"].partition(": ")[2])
    for failure in by_time:
        if failure.exitcode > 0 and failure.exitcode != LOST:
            return failure.exitcode
    killed = [
        f"process {rank} was ended by {failure.signal_name()}"
        for rank, failure in sorted(failures.items())
        if failure.exitcode < 0
    ]
    raise CoopNetError(f"{name}: {', '.join(killed) or 'its processes lost each other'}. {KEPT}")
