"""The saved state with which an unfinished run continues, for one run key, machine and version."""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.runs import checkpoint

log = logging.getLogger(__name__)

INDEX = "state.json"
EVERY = "COOPNET_SAVE_SECONDS"


def seconds_between_saves() -> float:
    """Least number of seconds between two saves, from `COOPNET_SAVE_SECONDS`; 30 by default.

    Raises:
        CoopNetError: it is not a number of seconds.
    """
    text = os.environ.get(EVERY) or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise CoopNetError(f"{EVERY} is {text!r}; set it to a number of seconds, 0 to save after every epoch")
    return seconds


class ResumeFolder:
    """The saved state of a run: two files used in turn, and an index that names the valid one and is replaced last.

    An epoch on a GPU takes about as long as a few saves, so a separate thread writes the states. A state that comes
    less than `COOPNET_SAVE_SECONDS` after the last write waits in memory; `flush` writes it. With 0, every state is on
    disk when `save` returns.

    A run does not continue from the state of another machine, version or parent, because the resulting bits would
    belong to neither. Such a state is kept: each identity has its own folder, so the run can continue there later.

    Attributes:
        run: the folder of this run.
        identity: key, device, libraries, source and the weights of the parents.
        folder: the folder in `run` that belongs to this identity.
    """

    def __init__(self, run: Path, identity: Mapping[str, Any]):
        self.run, self.identity = run, dict(identity)
        self.folder = run / hashlib.sha256(_text(self.identity).encode()).hexdigest()[:12]
        self.every, self.written = seconds_between_saves(), time.monotonic()
        self.waiting: tuple[Mapping[str, Tensor], dict[str, Any]] | None = None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last `save`; None if there are none that can be used."""
        index = self.folder / INDEX
        if not index.exists():
            self._warn_of_others()
            return None
        try:
            saved = files.read_sealed(index)
            if _text(saved["identity"]) != _text(self.identity):
                raise CoopNetError(f"{index} belongs to another run, machine or version")
            path = self.folder / saved["tensors"]
            if files.sha256(path) != saved["sha256"]:
                raise CoopNetError(f"{path} is damaged")
            tensors = checkpoint.read_tensors(path)
        except (CoopNetError, KeyError, TypeError) as error:
            log.warning("the saved state cannot be used (%s); this run starts over", error)
            return None
        return tensors, saved["facts"]

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the saved state, now or a little later.

        Args:
            tensors: on the CPU; the caller must not change them afterwards.
            facts: values for JSON; its lists may grow afterwards.

        Raises:
            CoopNetError: the previous write failed.
        """
        self._finish_thread(wait=False)
        self.waiting = tensors, {name: list(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
        if self.every == 0:
            self.flush()
        elif self.thread is None and time.monotonic() - self.written >= self.every:
            state, self.waiting = self.waiting, None
            self.thread = threading.Thread(target=self._try_to_write, args=state)
            self.thread.start()

    def flush(self) -> None:
        """Return when the last saved state is on disk.

        Raises:
            CoopNetError: this state or the one before could not be written.
        """
        self._finish_thread(wait=True)
        if self.waiting is not None:
            state, self.waiting = self.waiting, None
            self._write(*state)

    def _finish_thread(self, *, wait: bool) -> None:
        """Join a thread that has ended, and raise its error."""
        if self.thread is not None and (wait or not self.thread.is_alive()):
            self.thread.join()
            self.thread = None
        if self.error is not None:
            error, self.error, self.waiting = self.error, None, None
            raise error

    def _try_to_write(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        try:
            self._write(tensors, facts)
        except BaseException as error:
            self.error = error

    def _write(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the state on disk; after a crash at any moment either the old or the new state is intact."""
        index = self.folder / INDEX
        # If the index is missing or damaged, neither file is needed.
        name = "b.safetensors" if files.read_field(index, "tensors") == "a.safetensors" else "a.safetensors"
        checkpoint.write_tensors(self.folder / name, tensors)
        digest = files.sha256(self.folder / name)
        content = {"identity": self.identity, "tensors": name, "sha256": digest, "facts": facts}
        # Keys are not sorted: the columns of the history keep the order of a row's keys.
        files.write_text(index, json.dumps(files.sealed(content), allow_nan=False))
        self.written = time.monotonic()

    def _warn_of_others(self) -> None:
        for index in sorted(self.run.glob(f"*/{INDEX}")):
            try:
                other = files.read_json(index)["identity"]
                different = [name for name in self.identity if other[name] != self.identity[name]]
            except (CoopNetError, KeyError, TypeError):
                continue
            details = "; ".join(f"{name} there {other[name]}, here {self.identity[name]}" for name in different)
            log.warning(
                "%s belongs to another machine, version or parent (%s); this run starts over", index.parent, details
            )


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
