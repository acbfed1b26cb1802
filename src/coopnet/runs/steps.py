"""The steps of a study that train nothing: the inputs and outputs of each, and the source that decides its outputs.

Both engines and the commands that write records (`records.py`) use these lists. Each run is represented by its two
records, `run.json` and `metrics.json`: they are written last and hold the digests of its other files. Results made
without failed runs have other inputs than the plan, so they stay stale until those runs succeed.
"""

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from coopnet import files
from coopnet.runs.failures import Unavailable
from coopnet.runs.workspace import EVALUATED, GATHERED, REPORT, TABLES, Workspace
from coopnet.study import Run, Study, numerics
from coopnet.study.phases import TRAINING

PACKAGE = Path(numerics.__file__).parent.parent

SOURCES = {
    "evaluation": ("evaluation", "commands/evaluate.py"),
    "claims": ("claims", "evaluation", "commands/claims.py"),
    "reporting": ("report", "claims", "evaluation", "networks", "commands/report.py"),
}
"""Files and folders of each kind of source, relative to the package; tables count what networks cost."""


@functools.cache
def fingerprint(kind: str) -> str:
    """Fingerprint of a kind of source, in hex; comments and docstrings do not count."""
    return _source_of(*(PACKAGE / part for part in SOURCES[kind]))


def _source_of(*places: Path) -> str:
    """Fingerprint of Python files, and of all Python source and templates in folders, in hex."""
    found = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return _digest(
        numerics.fingerprint(path.read_text(encoding="utf-8")) if path.suffix == ".py" else files.sha256(path)
        for path in found
        if path.is_file() and path.suffix != ".pyc"
    )


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Producer(NamedTuple):
    """The step that made inputs of another step: its name, its record and its command line."""

    name: str
    record: Path
    command: str


@dataclass(frozen=True)
class Step:
    """A command that computes files from files.

    Attributes:
        name: name of the step, for messages.
        record: the record beside its outputs, with its inputs' digests.
        source: the kind of source that decides its outputs.
        inputs: files that it reads.
        outputs: files that it writes.
        parameters: fingerprint of what it reads from `params.yaml` and the overlay.
        producers: the steps that made its inputs; their records have the inputs' digests.
        records: `run.json` of each run among its inputs.
    """

    name: str
    record: Path
    source: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    parameters: str = ""
    producers: tuple[Producer, ...] = field(default=(), compare=False)
    records: tuple[Path, ...] = field(default=(), compare=False)


def evaluate(workspace: Workspace, plan: Study, run: Run) -> Step:
    """Metrics and votes of a run, from its logits and those of its parents."""
    records = tuple(_record(workspace, plan, one) for one in (run, *run.parents))
    name, record, _ = _evaluation(workspace, plan, run)
    return Step(
        name,
        record,
        "evaluation",
        records,
        tuple(workspace.run(plan, run) / name for name in EVALUATED),
        records=records,
    )


def tables(workspace: Workspace, plan: Study, unavailable: Collection[Unavailable] = ()) -> Step:
    """The tables of a study, without runs that are unavailable."""
    rows: list[Any] = [[name, row.model_dump(mode="json")] for name, row in plan.experiments.items()]
    return Step(
        f"{plan.name}/tables",
        workspace.step_record(plan.name, "tables"),
        "reporting",
        (workspace.published, *_records(workspace, plan, unavailable)),
        (
            *(workspace.results(plan.name) / name for name in GATHERED),
            *(workspace.tables(plan.name) / name for name in (*TABLES, "timing.csv")),
        ),
        _digest([json.dumps([plan.title, plan.description, plan.device, plan.threads, rows], sort_keys=True)]),
        producers=tuple(_evaluation(workspace, plan, run) for run in _available(plan, unavailable)),
        records=tuple(_record(workspace, plan, run) for run in _available(plan, unavailable)),
    )


def claims(workspace: Workspace, name: str) -> Step:
    """The verdict of every claim about the study `name`."""
    gathered = tuple(workspace.results(name) / file for file in ("metrics.json", "outcomes.safetensors"))
    compute = workspace.tables(name) / "compute.csv"
    inputs = (workspace.claims_file, compute, *gathered)
    record, made = workspace.step_record(name, "claims"), (workspace.claims(name),)
    return Step(f"{name}/claims", record, "claims", inputs, made, producers=(_producer(workspace, name, "tables"),))


def report(workspace: Workspace, name: str) -> Step:
    """The report of the study `name`: web page and PDF."""
    made_from = (*(workspace.tables(name) / table for table in TABLES), workspace.claims(name))
    made = tuple(workspace.report(name) / page for page in REPORT)
    producers = tuple(_producer(workspace, name, step) for step in ("tables", "claims"))
    return Step(
        f"{name}/report", workspace.step_record(name, "report"), "reporting", made_from, made, producers=producers
    )


def timing(workspace: Workspace, name: str) -> Step:
    """The timing page of the study `name`."""
    made_from = tuple(workspace.tables(name) / table for table in ("study.json", "timing.csv"))
    made = (workspace.report(name) / "timing.html",)
    record, producers = workspace.step_record(name, "timing"), (_producer(workspace, name, "tables"),)
    return Step(f"{name}/timing", record, "reporting", made_from, made, producers=producers)


def of_all_runs(workspace: Workspace, plan: Study) -> Iterator[Step]:
    """The steps that combine all runs of a study, each after the steps whose outputs it reads."""
    yield tables(workspace, plan)
    yield claims(workspace, plan.name)
    yield report(workspace, plan.name)
    yield timing(workspace, plan.name)


def of_phase(workspace: Workspace, plan: Study, phase: str) -> list[Step]:
    """The steps of a phase; the page of timings belongs to the report."""
    if phase in TRAINING:
        return [evaluate(workspace, plan, run) for run in plan.of_phase(phase)]
    wanted = ("report", "timing") if phase == "report" else (phase,)
    return [step for step in of_all_runs(workspace, plan) if step.name.removeprefix(f"{plan.name}/") in wanted]


def _evaluation(workspace: Workspace, plan: Study, run: Run) -> Producer:
    command = f"coopnet evaluate {plan.name} {run.experiment} {run.seed}{' --at-transfer' if run.at_transfer else ''}"
    return Producer(f"{plan.name}/evaluate/{run.name}", workspace.run(plan, run) / "evaluation.json", command)


def _producer(workspace: Workspace, name: str, step: str) -> Producer:
    return Producer(f"{name}/{step}", workspace.step_record(name, step), f"coopnet {step} {name}")


def _record(workspace: Workspace, plan: Study, run: Run) -> Path:
    return workspace.run(plan, run) / "run.json"


def _records(workspace: Workspace, plan: Study, unavailable: Collection[Unavailable]) -> list[Path]:
    """The records of all available runs, and the failure records of the runs that failed."""
    available = _available(plan, unavailable)
    records = [workspace.run(plan, run) / name for run in available for name in ("metrics.json", "run.json")]
    return records + [workspace.failure(plan, one.run) for one in unavailable if one.failure]


def _available(plan: Study, unavailable: Collection[Unavailable]) -> list[Run]:
    """The runs with results, and their transfers."""
    left_out = {(one.run.experiment, one.run.seed) for one in unavailable}  # not run keys: identical rows share one
    return [run for run in plan.everything() if (run.experiment, run.seed) not in left_out]
