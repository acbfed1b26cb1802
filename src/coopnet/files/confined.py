"""Reading untrusted files in a child process with limits on memory and time, which the kernel enforces.

A pickle, a compressed page or an image of a few bytes can make its reader use any amount of memory and time, and the
readers do not prevent it. So a child process does all the reading. It has limits, it cannot write files, and it returns
plain bytes only. Only Linux has such limits; on other systems there are none.
"""

import contextlib
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from coopnet.files.errors import CoopNetError, out_of_memory

DONE, REFUSED, TOO_LARGE = b"done", b"refused", b"too large"
MIB = 2**20

Work = Callable[[], list[bytes]]
"""Reads a file and returns plain bytes."""


def run(work: Work, path: Path | Callable[[], Path], *, memory: int, seconds: int) -> list[bytes]:
    """Read a file in a child process, and wait for the result. The arguments are those of `Reader`.

    Raises:
        CoopNetError: as `Reader.result`.
    """
    return Reader(work, path, memory=memory, seconds=seconds).result()


def in_turn(readers: Iterable["Reader"], at_once: int) -> Iterator[list[bytes]]:
    """The results of several readers in their order, where at most `at_once` of them run at the same time.

    Args:
        readers: an iterator that starts each reader when it is asked for it.
        at_once: 1 or more.

    Raises:
        CoopNetError: that of the first reader that has one. All others are stopped.
    """
    waiting, running = iter(readers), deque[Reader]()
    try:
        while True:
            running.extend(itertools.islice(waiting, at_once - len(running)))
            if not running:
                return
            yield running.popleft().result()
    finally:
        for reader in running:
            reader.stop()


class Reader:
    """A child process that reads a file and is already at work.

    Args:
        work: reads the file; may raise CoopNetError, which `result` raises too.
        path: the file or folder, for messages; or a function that returns it after the work has ended.
        memory: bytes that the child may use in addition to those of this process.
        seconds: processor time that it may use, over all its threads.
    """

    def __init__(self, work: Work, path: Path | Callable[[], Path], *, memory: int, seconds: int):
        self._path, self._memory, self._seconds = path, memory, seconds
        # The child is forked, because importing PyTorch again would take longer than the reading itself.
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        self._child = context.Process(target=_child, args=(work, sender, memory, seconds), daemon=True)
        with warnings.catch_warnings():  # Python 3.12 warns of threads, which may hold locks; the child has one thread
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child.start()
        sender.close()  # otherwise the next child would inherit it, and this one's output would never end

    def stop(self) -> None:
        """End the child, whatever it has read."""
        self._receiver.close()
        self._child.kill()
        self._child.join()

    def result(self) -> list[bytes]:
        """Wait for the child, and return what it has read.

        Raises:
            CoopNetError: the file needs more than the limits, or crashes its reader.
        """
        parts = []
        try:
            with contextlib.suppress(EOFError, OSError):  # a killed child may leave half a message
                while True:
                    parts.append(self._receiver.recv_bytes())
        except BaseException:
            self.stop()
            raise
        self._receiver.close()
        self._child.join()
        match parts:
            case [b"done", *result] if self._child.exitcode == 0:
                return result
            case [b"refused", message]:
                raise CoopNetError(message.decode())
        path = self._path if isinstance(self._path, Path) else self._path()
        if parts == [TOO_LARGE]:
            raise CoopNetError(f"{path} needs more than {self._memory // MIB} MiB to be read; {_REMEDY}")
        if self._child.exitcode == -signal.SIGXCPU:
            raise CoopNetError(f"{path} takes more than {self._seconds} s to be read; {_REMEDY}")
        if self._child.exitcode is not None and self._child.exitcode < 0:
            name = signal.Signals(-self._child.exitcode).name
            raise CoopNetError(f"{path} cannot be read: its reader was stopped by {name}; {_REMEDY}")
        raise RuntimeError(f"the reader of {path} failed")  # a bug: the child has printed a traceback


_REMEDY = "it is damaged or hostile; get it again from its publisher"


def _child(work: Work, sender: Connection, memory: int, seconds: int) -> None:
    """The main function of the child process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports the interrupt
    warnings.simplefilter("ignore")  # an error message is one line
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the threads of the parent do not exist here, and OpenMP would wait for them forever
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
