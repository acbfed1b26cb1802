"""`coopnet plan`: show the cost of a study before it runs, and its finished part."""

from collections.abc import Iterator

from rich.filesize import decimal
from rich.table import Table

from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.report.wording import count, flops
from coopnet.runs import phase_keys, speed, terminal
from coopnet.runs.estimate import Estimate, PhaseCost, cores, duration, estimate
from coopnet.runs.workspace import Workspace

WIDTH = 110


def show(workspace: Workspace, name: str, *, measure: bool = False) -> None:
    """Print the cost of a study by phase; with `measure`, first measure this machine on a few steps.

    Raises:
        CoopNetError: there is no such study, or none of its networks can be measured.
    """
    plan = study.load(workspace.root, name)
    if measure:
        speed.measure(workspace, plan)
    found = estimate(workspace, plan)
    console = terminal.console(WIDTH)
    console.print(_table(found))
    for line in _notes(found):
        console.print(line, highlight=False, markup=False)


def write(workspace: Workspace, name: str) -> None:
    """Write the keys of each phase's runs, on which DVC's stages depend.

    Raises:
        CoopNetError: there is no such study; or it was edited meanwhile, and DVC would record the edited parameters.
    """
    plan = study.load(workspace.root, name)
    phase_keys.write(workspace, plan)
    if not phase_keys.are_written(workspace, study.load(workspace.root, name)):
        raise CoopNetError(f"parameters of {name} were edited while its plan was written; run the same command again")


def _table(found: Estimate) -> Table:
    table = terminal.narrow(f"Study {found.study.name}: what is left to make")
    counted = ("networks", "finished", "in\nstore", "to\nmake", "training\nFLOPs", "this\nmachine", "one\nH100", "disk")
    for column in ("phase", *counted):
        table.add_column(column, justify="left" if column == "phase" else "right", no_wrap=True)
    for name, phase in found.phases.items():
        table.add_row(name, *_cells(phase, found))
    table.add_section()
    table.add_row("all", *_cells(found.total, found))
    return table


def _cells(phase: PhaseCost, found: Estimate) -> list[str]:
    counts = [str(number) for number in (phase.runs, phase.finished, phase.stored, phase.left)]
    trained = phase.training_flops > 0
    return [
        *counts,
        flops(phase.training_flops) if trained else "–",
        duration(phase.seconds) if trained and found.speeds else "–",
        duration(phase.h100) if trained else "–",
        decimal(phase.disk) if phase.disk else "–",
    ]


def _notes(found: Estimate) -> Iterator[str]:
    """The sources of the figures, and the next commands."""
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
            least = duration(total.seconds / found.at_once)
            yield f"The {cores()} cores of this process take {found.at_once} runs at once: {least} at best."
    elif total.training_flops:
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
        yield f"Next: snakemake --cores {cores()} --config study={plan.name}"
        yield f"Then, to follow it: coopnet runs {plan.name} --watch"
    else:
        yield f"Nothing is left to train. Next: snakemake --cores 1 --config study={plan.name}, for tables and report"
