"""The steps of a study that train nothing: what each reads and writes, and which source decides what it writes.

Both engines take these lists from here, and so do the commands that leave receipts (`receipts.py`). Of a run they name
its two records, `run.json` and `metrics.json`: they are written last and hold the digests of its other files.
What is made without runs that failed names other inputs than the engines plan with, so it stays stale until they are
there.
"""

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.runs.failures import Lost
from coopnet.runs.workspace import EVALUATED, REPORT, TABLES, Workspace
from coopnet.study import Run, Study, numerics

PACKAGE = Path(numerics.__file__).parent.parent

SOURCES = {
    "evaluation": ("evaluation", "commands/evaluate.py"),
    "claims": ("claims", "commands/claims.py"),
    "reporting": ("report", "networks", "commands/report.py"),  # the tables count what networks cost
}
"""What the source of each kind consists of, below the package."""


@functools.cache
def fingerprint(kind: str) -> str:
    """Fingerprint of a kind of source, in hex; comments and docstrings do not count."""
    if kind == "numerics":
        return numerics.source_hash()
    return _source_of(*(PACKAGE / part for part in SOURCES[kind]))


def _source_of(*places: Path) -> str:
    """Fingerprint of Python files, and of the Python source and templates below folders, in hex."""
    found = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return _digest(
        numerics.fingerprint(path.read_text(encoding="utf-8")) if path.suffix == ".py" else files.sha256(path)
        for path in found
        if path.is_file() and path.suffix != ".pyc"
    )


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Step:
    """A command that computes files from files.

    Attributes:
        name: what it is called in messages; its receipt is `.stamps/<name>.json`.
        source: the kind of source that decides its outputs.
        inputs: what it reads.
        outputs: what it writes.
        words: fingerprint of what it takes from `params.yaml` and the overlay besides.
        makers: names of the steps that made its inputs; their receipts know what these have to be.
        records: `run.json` of each run among its inputs, and the same record beside the run's weights.
    """

    name: str
    source: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    words: str = ""
    makers: tuple[str, ...] = field(default=(), compare=False)
    records: tuple[tuple[Path, Path], ...] = field(default=(), compare=False)


def command(name: str) -> str:
    """What a user types to make a step."""
    study, verb, *run = name.split("/")
    return " ".join(["coopnet", verb, study, *(part.removeprefix("seed") for part in run)])


def evaluate(workspace: Workspace, plan: Study, run: Run) -> Step:
    """Metrics and votes of a run, from its logits and its parents'."""
    records = tuple(_record(workspace, plan, one) for one in (run, *run.parents))
    return Step(
        _evaluation(plan, run),
        "evaluation",
        tuple(beside_results for beside_results, _ in records),
        tuple(workspace.run(plan, run) / name for name in EVALUATED),
        records=records,
    )


def tables(workspace: Workspace, plan: Study, lost: Collection[Lost] = ()) -> Step:
    """The tables of a study, if need be without the runs that are lost."""
    rows: list[Any] = [[name, row.model_dump(mode="json")] for name, row in plan.experiments.items()]
    return Step(
        f"{plan.name}/tables",
        "reporting",
        (workspace.published, *_records(workspace, plan, lost)),
        tuple(workspace.tables(plan.name) / name for name in (*TABLES, "timing.csv")),
        _digest([json.dumps([plan.title, plan.description, plan.device, plan.threads, rows], sort_keys=True)]),
        makers=_evaluations(plan, lost),
        records=_both_records(workspace, plan, lost),
    )


def claims(workspace: Workspace, plan: Study, lost: Collection[Lost] = ()) -> Step:
    """The verdict of every claim, as far as that can be had without the runs that are lost."""
    compute = workspace.tables(plan.name) / "compute.csv"
    inputs = (workspace.stated, compute, *_records(workspace, plan, lost))
    return Step(
        f"{plan.name}/claims",
        "claims",
        inputs,
        (workspace.claims(plan.name),),
        makers=(*_evaluations(plan, lost), f"{plan.name}/tables"),
        records=_both_records(workspace, plan, lost),
    )


def report(workspace: Workspace, name: str) -> Step:
    """Page and PDF of the study `name`."""
    made_from = (*(workspace.tables(name) / table for table in TABLES), workspace.claims(name))
    made = tuple(workspace.report(name) / page for page in REPORT)
    return Step(f"{name}/report", "reporting", made_from, made, makers=(f"{name}/tables", f"{name}/claims"))


def timing(workspace: Workspace, name: str) -> Step:
    """The page of timings of the study `name`."""
    made_from = tuple(workspace.tables(name) / table for table in ("study.json", "timing.csv"))
    made = (workspace.report(name) / "timing.html",)
    return Step(f"{name}/timing", "reporting", made_from, made, makers=(f"{name}/tables",))


def steps(workspace: Workspace, plan: Study) -> Iterator[Step]:
    """All steps of a study, in an order in which each finds what it reads."""
    for run in plan.runs.values():
        yield evaluate(workspace, plan, run)
    yield from of_all_runs(workspace, plan)


def of_all_runs(workspace: Workspace, plan: Study) -> Iterator[Step]:
    """The steps that read what all runs of a study left, in an order in which each finds what it reads."""
    yield tables(workspace, plan)
    yield claims(workspace, plan)
    yield report(workspace, plan.name)
    yield timing(workspace, plan.name)


def _evaluation(plan: Study, run: Run) -> str:
    return f"{plan.name}/evaluate/{run.name}"


def _evaluations(plan: Study, lost: Collection[Lost]) -> tuple[str, ...]:
    return tuple(_evaluation(plan, run) for run in _there(plan, lost))


def _both_records(workspace: Workspace, plan: Study, lost: Collection[Lost]) -> tuple[tuple[Path, Path], ...]:
    return tuple(_record(workspace, plan, run) for run in _there(plan, lost))


def _record(workspace: Workspace, plan: Study, run: Run) -> tuple[Path, Path]:
    return workspace.run(plan, run) / "run.json", workspace.checkpoint(plan, run) / "model.json"


def _records(workspace: Workspace, plan: Study, lost: Collection[Lost]) -> list[Path]:
    """The records of all runs; of lost ones why they failed, where it was they that did."""
    there = _there(plan, lost)
    records = [workspace.run(plan, run) / name for run in there for name in ("metrics.json", "run.json")]
    return records + [workspace.failure(plan, one.run) for one in lost if one.failure]


def _there(plan: Study, lost: Collection[Lost]) -> list[Run]:
    """The runs that are not lost."""
    left_out = {(one.run.experiment, one.run.seed) for one in lost}  # not keys: rows that agree share one
    return [run for place, run in plan.runs.items() if place not in left_out]
