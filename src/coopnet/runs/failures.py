"""Runs that failed: their training diverged, or the memory did not suffice.

`coopnet train` leaves `failure.json` beside where the results of such a run would be. It counts for the very run whose
key it has, until that run is finished: what the parameters, the source or the parents have become since may go well.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coopnet import files
from coopnet.files.errors import CoopNetError, TrainingFailed
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unavailable:
    """A planned run that a study has to do without for now.

    Attributes:
        run: which.
        causes: the runs that failed: itself, or those that it descends from.
        failure: what it left when it failed itself; None of one that needs a run that failed.
    """

    run: Run
    causes: tuple[Run, ...]
    failure: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """`diverged` or `out_of_memory` where it failed itself, else `waiting`."""
        return str(self.failure["kind"]) if self.failure else "waiting"

    @property
    def short(self) -> str:
        """In a few words: `one3/seed1 failed`, or `one3_grown/seed1 needs one3/seed1, which failed`."""
        if self.failure:
            return f"{self.run.name} failed"
        return f"{self.run.name} needs {', '.join(run.name for run in self.causes)}, which failed"

    @property
    def text(self) -> str:
        """In words, without a full stop: `failed: …`, or `waiting for one3/seed1, which failed`."""
        if self.failure:
            return f"failed: {self.failure['reason']}"
        return f"waiting for {', '.join(run.name for run in self.causes)}, which failed"


def leave(workspace: Workspace, plan: Study, run: Run, error: TrainingFailed) -> None:
    """Record that a run failed. Where even that cannot be written, the error alone has to do."""
    facts = {"key": run.key, "kind": error.kind, "reason": str(error), "epoch": error.epoch, "step": error.step}
    try:
        files.write_json(workspace.failure(plan, run), files.sealed(facts))
    except CoopNetError as unwritten:
        log.warning("%s", unwritten)


def clear(workspace: Workspace, plan: Study, run: Run) -> None:
    """Forget that a run ever failed.

    Raises:
        CoopNetError: the record cannot be removed.
    """
    path = workspace.failure(plan, run)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CoopNetError(f"cannot remove {path}: {files.reason(error)}") from error


def unavailable(workspace: Workspace, plan: Study) -> dict[tuple[str, int], Unavailable]:
    """The runs that failed, and all that descends from them, by experiment and seed; empty where all went well.

    A descendant counts as unavailable even where its own files are there: its results need those of its parent.
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
    """All of them in a line: `one3/seed1 (failed: …), one3_grown/seed1 (waiting for one3/seed1, which failed)`."""
    return ", ".join(f"{one.run.name} ({one.text.rstrip('.')})" for one in unavailable.values())


def _place(run: Run) -> tuple[str, int]:
    return run.experiment, run.seed


def _failure(workspace: Workspace, plan: Study, run: Run) -> dict[str, Any] | None:
    """What a run left when it failed; None where it did not, or has been finished since."""
    path = workspace.failure(plan, run)
    if not path.exists():
        return None
    try:
        failure = files.read_sealed(path)
        kept = failure["key"] == run.key
    except (CoopNetError, KeyError):
        log.warning("warning: %s is damaged and counts for nothing; make %s again", path, run.name)
        return None
    finished = files.read_field(path.with_name("run.json"), "key") == run.key
    return failure if kept and not finished else None
