"""`coopnet plan`: what a study will take before it runs, and what of it is finished."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from coopnet import files, study
from coopnet.files.errors import CoopNetError
from coopnet.report.wording import count, flops
from coopnet.runs import failures, speed, steps, store
from coopnet.runs.speed import Speed
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, costs
from coopnet.study.phases import TRAINING

WIDTH = 110


@dataclass
class Phase:
    """What a phase takes.

    Attributes:
        runs: networks that it makes.
        here: of them, those that lie finished in the workspace.
        stored: those that the run store has, so that nothing is trained.
        uncounted: networks of libraries, whose operations are not counted here.
        training_flops: of what is to be made.
        seconds: on this machine, one after another.
        h100: seconds on one H100, estimated.
        disk: bytes of all runs that do not lie in the workspace.
    """

    runs: int = 0
    here: int = 0
    stored: int = 0
    uncounted: int = 0
    training_flops: int = 0
    seconds: float = 0.0
    h100: float = 0.0
    disk: int = 0

    @property
    def left(self) -> int:
        """Networks to make."""
        return self.runs - self.here - self.stored

    def add(self, other: "Phase") -> None:
        """Add another one to it."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Plan:
    """What a study takes.

    Attributes:
        study: which.
        phases: by name, those that make anything.
        speeds: what was measured on this machine.
        measured: how.
        failed: runs that failed.
    """

    study: Study
    speeds: list[Speed]
    measured: str
    failed: int
    phases: dict[str, Phase] = field(default_factory=dict)

    @property
    def total(self) -> Phase:
        """All phases."""
        total = Phase()
        for phase in self.phases.values():
            total.add(phase)
        return total

    @property
    def at_once(self) -> int:
        """Runs that the cores of this machine take at once; on a GPU one."""
        return max(1, (os.cpu_count() or 1) // self.study.threads) if self.study.device == "cpu" else 1


def show(workspace: Workspace, name: str, *, measure: bool = False) -> None:
    """Print what a study takes, by phase.

    Args:
        workspace: where.
        name: of the study.
        measure: first measure this machine on a few steps.

    Raises:
        CoopNetError: there is no such study, or nothing of it can be measured.
    """
    plan = study.load(workspace.root, name)
    if measure:
        speed.measure(workspace, plan)
    found = of(workspace, plan)
    console = Console(width=None if os.isatty(1) else WIDTH)
    console.print(_table(found))
    for line in _notes(found):
        console.print(line, highlight=False, markup=False)


def write(workspace: Workspace, name: str) -> None:
    """Write what decides the results of each phase of a study, a file per phase: the dependencies of DVC's stages.

    Raises:
        CoopNetError: there is no such study, or it was edited meanwhile: DVC reads its parameters at the end.
    """
    plan = study.load(workspace.root, name)
    write_files(workspace, plan)
    if not is_written(workspace, study.load(workspace.root, name)):
        raise CoopNetError(f"parameters of {name} were edited while its plan was written; run the same command again")


def write_files(workspace: Workspace, plan: Study) -> None:
    """Write these files for a plan; a file that is right keeps its date."""
    for path, text in _decisive(workspace, plan):
        if not _has(path, text):
            files.write_text(path, text)


def is_written(workspace: Workspace, plan: Study) -> bool:
    """Whether these files are those of a plan."""
    return all(_has(path, text) for path, text in _decisive(workspace, plan))


def _decisive(workspace: Workspace, plan: Study) -> list[tuple[Path, str]]:
    """What decides the results of each phase, with the path of its file."""
    return [(workspace.decisive(plan.name, phase), text) for phase, text in steps.decisive(workspace, plan).items()]


def _has(path: Path, text: str) -> bool:
    """Whether a file has exactly this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def of(workspace: Workspace, plan: Study) -> Plan:
    """What a study takes; nothing heavy is loaded."""
    entries = Store(store.default_place(workspace.root))
    speeds, measured = speed.finished_here(entries, plan.device), "runs"
    if not speeds:
        speeds, measured = speed.remembered(workspace, plan.device), "steps"
    failed = sum(one.failure is not None for one in failures.unavailable(workspace, plan).values())
    found = Plan(plan, speeds, measured, failed)
    keys: set[str] = set()
    for run in plan.everything():
        phase = found.phases.setdefault(run.phase, Phase())
        phase.add(_one(workspace, plan, run, entries, found, repeated=run.key in keys))
        keys.add(run.key)
    found.phases = {name: found.phases[name] for name in TRAINING if name in found.phases}
    return found


def _one(workspace: Workspace, plan: Study, run: Run, entries: Store, found: Plan, *, repeated: bool) -> Phase:
    """What a single run takes; one with the key of another takes nothing, since it is the same run."""
    phase, cost = Phase(runs=1), costs.cost(run)
    if files.read_field(workspace.run(plan, run) / "run.json", "key") == run.key:
        phase.here = 1
        return phase
    phase.disk = cost.disk if cost else 0
    if entries.finished(run.key):
        phase.stored = 1
        return phase
    if repeated:
        return phase
    if cost is None:
        phase.uncounted = 1
        return phase
    phase.training_flops = cost.training_flops
    precision = run.row.training.precision
    if cost.steps:
        phase.h100 = speed.h100(cost, precision)
        phase.seconds = speed.here(cost, precision, run.threads, found.speeds) if found.speeds else 0.0
    return phase


def short(workspace: Workspace, plan: Study) -> str:
    """The plan in a line, for `snakemake -n`; nothing where no network is left to make."""
    found = of(workspace, plan)
    total = found.total
    if not total.left:
        return ""
    here = f"{hours(total.seconds)} on this machine, " if found.speeds else ""
    return (
        f"{plan.name}: {flops(total.training_flops)} FLOPs of training; {here}{hours(total.h100)} on one H100 "
        f"(estimated), run after run; {decimal(total.disk)} of files. `coopnet plan {plan.name}` has it by phase."
    )


def hours(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`, `250 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def _table(found: Plan) -> Table:
    table = Table(title=f"Study {found.study.name}: what is left to make", title_justify="left")
    for column in ("phase", "networks", "finished", "in the store", "to make", "training FLOPs"):
        table.add_column(column, justify="left" if column == "phase" else "right", no_wrap=column == "phase")
    table.add_column("this machine", justify="right")
    table.add_column("one H100, estimated", justify="right")
    table.add_column("disk", justify="right")
    for name, phase in found.phases.items():
        table.add_row(name, *_cells(phase, found))
    table.add_section()
    table.add_row("all", *_cells(found.total, found))
    return table


def _cells(phase: Phase, found: Plan) -> list[str]:
    known = [str(number) for number in (phase.runs, phase.here, phase.stored, phase.left)]
    trained = phase.training_flops > 0
    return [
        *known,
        flops(phase.training_flops) if trained else "–",
        hours(phase.seconds) if trained and found.speeds else "–",
        hours(phase.h100) if trained else "–",
        decimal(phase.disk) if phase.disk else "–",
    ]


def _notes(found: Plan) -> Iterator[str]:
    """Where the figures are from, and what to do next."""
    plan, total = found.study, found.total
    if found.speeds:
        names = ", ".join(dict.fromkeys(one.name for one in found.speeds))
        source = (
            f"the latest {count(len(found.speeds), 'run')} that it finished into the run store"
            if found.measured == "runs"
            else f"a few steps on random images (`coopnet plan {plan.name} --measure`)"
        )
        yield f"This machine ({names}): by the speed of {source}, run after run."
        if found.at_once > 1 and total.seconds:
            least = hours(total.seconds / found.at_once)
            yield f"Its {os.cpu_count()} cores take {found.at_once} runs at once: {least} at best."
    else:
        yield (
            f"This machine: not known, since it has finished no run on this kind of device ({plan.device}). "
            f"`coopnet plan {plan.name} --measure` trains for a few steps and tells."
        )
    yield f"One H100: an estimate, not measured, run after run: {speed.RULE}."
    yield "Not counted: the start of each process, transfers, evaluation, tables and report."
    if total.disk:
        yield (
            f"Disk: {decimal(total.disk)} in the workspace, and the same again in the run store, where the file "
            "system cannot share blocks."
        )
    if total.uncounted:
        yield f"Without {count(total.uncounted, 'network')} of other libraries, whose operations are not counted here."
    if found.failed:
        yield f"{count(found.failed, 'run')} failed before: `coopnet runs {plan.name}` says why."
    if total.left:
        yield f"Next: snakemake --cores {os.cpu_count()} --config study={plan.name}"
        yield f"Then, to follow it: coopnet runs {plan.name} --watch"
    else:
        yield f"Nothing is left to train. Next: snakemake --cores 1 --config study={plan.name}, for tables and report"
