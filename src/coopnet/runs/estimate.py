"""The cost of a study before it runs: networks, operations, time and disk of each phase, and the finished part."""

import os
import sys
from dataclasses import dataclass, field

from coopnet import files
from coopnet.runs import failures, speed, store
from coopnet.runs.speed import Speed
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, costs
from coopnet.study.phases import TRAINING


@dataclass
class PhaseCost:
    """The cost of a phase.

    Attributes:
        runs: number of networks.
        finished: number that are finished in the workspace.
        stored: number that are only in the run store, so that nothing is trained for them.
        uncounted: networks of other libraries, whose operations are not counted.
        training_flops: FLOPs of the networks that remain to be trained.
        seconds: their time on this machine, one after another.
        h100: their estimated seconds on one H100.
        disk: bytes of all runs that are not in the workspace.
    """

    runs: int = 0
    finished: int = 0
    stored: int = 0
    uncounted: int = 0
    training_flops: int = 0
    seconds: float = 0.0
    h100: float = 0.0
    disk: int = 0

    @property
    def left(self) -> int:
        """Networks to make."""
        return self.runs - self.finished - self.stored

    def add(self, other: "PhaseCost") -> None:
        """Add the cost of another phase or run."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Estimate:
    """The cost of a study.

    Attributes:
        study: the study.
        speeds: training speeds measured on this machine.
        measured: their source: finished `runs`, or a few `steps`.
        failed: number of runs that failed.
        phases: cost of each phase that has runs, by name.
    """

    study: Study
    speeds: list[Speed]
    measured: str
    failed: int
    phases: dict[str, PhaseCost] = field(default_factory=dict)

    @property
    def total(self) -> PhaseCost:
        """The cost of all phases."""
        total = PhaseCost()
        for phase in self.phases.values():
            total.add(phase)
        return total

    @property
    def at_once(self) -> int:
        """Number of runs that the cores of this process train at the same time; 1 on a GPU."""
        return max(1, cores() // self.study.threads) if self.study.device == "cpu" else 1


def estimate(workspace: Workspace, plan: Study) -> Estimate:
    """Estimate the cost of a study; no heavy library is imported."""
    entries = Store(store.default_place(workspace.root))
    speeds, measured = speed.finished_here(entries, plan.device), "runs"
    if not speeds:
        speeds, measured = speed.remembered(workspace, plan.device), "steps"
    failed = sum(one.failure is not None for one in failures.unavailable(workspace, plan).values())
    found = Estimate(plan, speeds, measured, failed)
    keys: set[str] = set()
    for run in plan.everything():
        phase = found.phases.setdefault(run.phase, PhaseCost())
        phase.add(_of_run(workspace, plan, run, entries, speeds, repeated=run.key in keys))
        keys.add(run.key)
    found.phases = {name: found.phases[name] for name in TRAINING if name in found.phases}
    return found


def _of_run(
    workspace: Workspace, plan: Study, run: Run, entries: Store, speeds: list[Speed], *, repeated: bool
) -> PhaseCost:
    """Cost of one run; zero if an earlier run of the study has the same key, because both are the same computation."""
    found, cost = PhaseCost(runs=1), costs.cost(run)
    if files.read_field(workspace.run(plan, run) / "run.json", "key") == run.key:
        found.finished = 1
        return found
    found.disk = cost.disk if cost else 0
    if entries.finished(run.key):
        found.stored = 1
        return found
    if repeated:
        return found
    if cost is None:
        found.uncounted = 1
        return found
    found.training_flops = cost.training_flops
    precision = run.row.training.precision
    if cost.steps:
        found.h100 = speed.h100(cost, precision)
        found.seconds = speed.here(cost, precision, run.threads, speeds) if speeds else 0.0
    return found


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def duration(seconds: float) -> str:
    """A duration in words: `45 s`, `12 min`, `3.4 h`, `250 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"
