"""Runs that failed: their training diverged, or they ran out of memory.

`coopnet train` writes `failure.json` into the folder of such a run. The record counts only for the run key that it
names, and only until that run is finished, because with changed parameters, source or parents the run may succeed.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coopnet import files
from coopnet.files.errors import CoopNetError, TrainingFailed, out_of_memory
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

log = logging.getLogger(__name__)

NOT_DETERMINISTIC = " does not have a deterministic implementation"
"""What PyTorch says of an operation, after its name."""


@dataclass(frozen=True)
class Unavailable:
    """A planned run that has no results because it, or one of its ancestors, failed.

    Attributes:
        run: the run.
        causes: the runs that failed: itself, or ancestors of it.
        failure: its failure record if it failed itself; None if only an ancestor failed.
    """

    run: Run
    causes: tuple[Run, ...]
    failure: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """`diverged` or `out_of_memory` if the run failed itself, otherwise `waiting`."""
        return str(self.failure["kind"]) if self.failure else "waiting"

    @property
    def short(self) -> str:
        """A few words: `one3/seed1 failed`, or `one3_grown/seed1 needs one3/seed1, which failed`."""
        if self.failure:
            return f"{self.run.name} failed"
        return f"{self.run.name} needs {', '.join(run.name for run in self.causes)}, which failed"

    @property
    def text(self) -> str:
        """A phrase without a full stop: `failed: …`, or `waiting for one3/seed1, which failed`."""
        if self.failure:
            return f"failed: {self.failure['reason']}"
        return f"waiting for {', '.join(run.name for run in self.causes)}, which failed"


@contextlib.contextmanager
def recorded(workspace: Workspace, plan: Study, run: Run) -> Iterator[None]:
    """Remove the failure record of a run before it is tried again, and write a new one if it fails.

    Raises:
        TrainingFailed: the run failed.
        CoopNetError: the network has an operation that is not deterministic on the device.
    """
    files.remove(workspace.failure(plan, run))
    try:
        yield
    except TrainingFailed as error:
        write(workspace, plan, run, error)
        raise
    except (RuntimeError, MemoryError) as error:
        if NOT_DETERMINISTIC in str(error):
            raise CoopNetError(
                f"{str(error).partition(NOT_DETERMINISTIC)[0]} has no version on {plan.device} that gives "
                "the same bits each time, so no result could be made again; choose another network, or device: cpu"
            ) from error
        message = out_of_memory(error)
        if message is None:
            raise
        failed = TrainingFailed(
            f"no memory left on {plan.device} before the first epoch or after the last: lower model.width, or let "
            f"fewer runs share the device ({message}). What was trained is kept.",
            "out_of_memory",
        )
        write(workspace, plan, run, failed)
        raise failed from error


def write(workspace: Workspace, plan: Study, run: Run, error: TrainingFailed) -> None:
    """Record that a run failed. If the record cannot be written, log a warning and go on."""
    facts = {"key": run.key, "kind": error.kind, "reason": str(error), "epoch": error.epoch, "step": error.step}
    try:
        files.write_json(workspace.failure(plan, run), files.sealed(facts))
    except CoopNetError as unwritten:
        log.warning("%s", unwritten)


def unavailable(workspace: Workspace, plan: Study) -> dict[tuple[str, int], Unavailable]:
    """The runs that failed and all their descendants, by experiment and seed.

    A descendant is unavailable even if its own files exist, because its results need those of its parent.
    """
    found: dict[tuple[str, int], Unavailable] = {}
    for place, run in plan.runs.items():  # parents come first
        above = [found[_place(parent)] for parent in run.parents if _place(parent) in found]
        if above:
            found[place] = Unavailable(
                run, tuple({_place(cause): cause for one in above for cause in one.causes}.values())
            )
        elif failure := (run.transfer and _failure(workspace, plan, run.transfer)) or _failure(workspace, plan, run):
            found[place] = Unavailable(run, (run,), failure)
    return found


def describe(unavailable: Mapping[tuple[str, int], Unavailable]) -> str:
    """All of them on one line: `one3/seed1 (failed: …), one3_grown/seed1 (waiting for one3/seed1, which failed)`."""
    return ", ".join(f"{one.run.name} ({one.text.rstrip('.')})" for one in unavailable.values())


def _place(run: Run) -> tuple[str, int]:
    return run.experiment, run.seed


def _failure(workspace: Workspace, plan: Study, run: Run) -> dict[str, Any] | None:
    """The failure record of a run; None if it did not fail, or has been finished since."""
    path = workspace.failure(plan, run)
    if not path.exists():
        return None
    try:
        failure = files.read_sealed(path)
        same_run = failure["key"] == run.key
    except (CoopNetError, KeyError):
        log.warning("warning: %s is damaged and is ignored; run %s again", path, run.name)
        return None
    finished = files.read_field(path.with_name("run.json"), "key") == run.key
    return failure if same_run and not finished else None
