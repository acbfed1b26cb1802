"""Reading untrusted files in a child process with limits on memory and time, which the kernel enforces.

A pickle, a compressed page or an image of a few bytes can make its reader use any amount of memory and time, and the
readers do not prevent it. So a child process does all the reading. It has limits, it cannot write files, and it returns
plain bytes only. Only Linux has such limits; on other systems there are none.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from coopnet.files.errors import CoopNetError, out_of_memory

DONE, REFUSED, TOO_LARGE = b"done", b"refused", b"too large"
MIB = 2**20


def run(work: Callable[[], list[bytes]], path: Path | Callable[[], Path], *, memory: int, seconds: int) -> list[bytes]:
    """Read a file in a child process, and return the result.

    Args:
        work: reads the file; may raise CoopNetError, which is raised here too.
        path: the file or folder, for messages; or a function that returns it after the work has ended.
        memory: bytes that the child may use in addition to those of this process.
        seconds: processor time that it may use, over all its threads.

    Raises:
        CoopNetError: the file needs more than that, or crashes its reader.
    """
    # The child is forked, because importing PyTorch again would take longer than the reading itself.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, sender, memory, seconds), daemon=True)
    with warnings.catch_warnings():  # Python 3.12 warns of threads, which may hold locks; the child has one thread
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    sender.close()
    parts = []
    try:
        with receiver, contextlib.suppress(EOFError):
            while True:
                parts.append(receiver.recv_bytes())
    finally:
        if sys.exc_info()[0] is not None:
            child.kill()
        child.join()
    if not isinstance(path, Path):
        path = path()
    match parts:
        case [b"done", *result]:
            return result
        case [b"refused", message]:
            raise CoopNetError(message.decode())
        case [b"too large"]:
            raise CoopNetError(f"{path} needs more than {memory // MIB} MiB to be read; {_REMEDY}")
    if child.exitcode == -signal.SIGXCPU:
        raise CoopNetError(f"{path} takes more than {seconds} s to be read; {_REMEDY}")
    if child.exitcode is not None and child.exitcode < 0:
        name = signal.Signals(-child.exitcode).name
        raise CoopNetError(f"{path} cannot be read: its reader was stopped by {name}; {_REMEDY}")
    raise RuntimeError(f"the reader of {path} failed")  # a bug: the child has printed a traceback


_REMEDY = "it is damaged or hostile; get it again from its publisher"


def _child(work: Callable[[], list[bytes]], sender: Connection, memory: int, seconds: int) -> None:
    """The main function of the child process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports the interrupt
    warnings.simplefilter("ignore")  # an error message is one line
    try:
        _limit(memory, seconds)
        parts = [DONE, *work()]
    except CoopNetError as error:
        parts = [REFUSED, str(error).encode(errors="replace")]
    except MemoryError:
        parts = [TOO_LARGE]
    except RuntimeError as error:  # PyTorch's type for it
        if not out_of_memory(error):
            raise
        parts = [TOO_LARGE]
    for part in parts:
        sender.send_bytes(part)


def _limit(memory: int, seconds: int) -> None:
    """Limit this process permanently."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CPU, seconds)
    statistics = Path("/proc/self/statm")
    if statistics.is_file():  # Linux, where RLIMIT_DATA counts all private writable memory
        pages = int(statistics.read_text().split()[5])
        _lower(resource.RLIMIT_DATA, pages * os.sysconf("SC_PAGE_SIZE") + memory)


def _lower(kind: int, value: int) -> None:
    """Lower a limit; a limit that is already lower stays."""
    soft, hard = (limit for limit in resource.getrlimit(kind))
    if soft == resource.RLIM_INFINITY or value < soft:
        resource.setrlimit(kind, (value, hard))
