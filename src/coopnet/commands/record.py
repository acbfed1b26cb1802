"""`coopnet record`: DVC learns what was made here without it."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from coopnet import files, study
from coopnet.commands import plan as plans
from coopnet.data.datasets import Dataset
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import records, steps
from coopnet.runs.records import Problem
from coopnet.runs.workspace import Workspace
from coopnet.study import FULL, Run, Study
from coopnet.study.phases import TRAINING

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds to wait for another DVC to let go of its locks."""

LAST = ("tables", "claims", "report", "report")
"""The stage of each step that follows the runs; the page of timings is recorded with the report."""

RECORDED = (*TRAINING, *dict.fromkeys(LAST))
"""The stages of a study."""

BUSY = ("Unable to acquire lock", "is busy")
"""What DVC says when another one has them."""


def record(workspace: Workspace, name: str) -> None:
    """Have DVC record the phases of a study whose networks, or outputs, are all as the plan has them.

    What is not all there is left out. What was made from something else than the plan has now, or is damaged, is
    refused.

    Raises:
        CoopNetError: naming every run and step that was refused, after the other phases were recorded; or parameters
            were edited meanwhile, and then nothing is recorded; or DVC fails.
    """
    check_repository(workspace)
    plan = study.load(workspace.root, name)
    with remembered(workspace.stamps / name / "digests.json") as digests:
        sound, refused = _sort(workspace, plan, digests)
    lock = workspace.root / ("dvc.lock" if name == FULL else "studies/dvc.lock")
    before = lock.read_text(encoding="utf-8") if lock.is_file() else None
    plans.write_files(workspace, plan)
    for phase in sound:  # DVC wants the folder of a phase that makes nothing in this study, too
        if phase in TRAINING:
            workspace.checkpoints(name, phase).mkdir(parents=True, exist_ok=True)
    prepared = [f"prepare@{dataset}" for dataset in plan.datasets() if _prepared(workspace, plan.data[dataset])]
    _commit(workspace, *prepared, *(_address(name, phase) for phase in ("plan", *sound)))
    if not plans.is_written(workspace, study.load(workspace.root, name)):
        lock.unlink(missing_ok=True) if before is None else files.write_text(lock, before)
        raise CoopNetError("parameters were edited while DVC recorded, so nothing is recorded; run it again")
    log.info("recorded in DVC: %d of %d phases of %s", len(sound), len(RECORDED), name)
    if refused:
        raise CoopNetError("not recorded: " + "; ".join(refused))


def _commit(workspace: Workspace, *addresses: str) -> None:
    """Have DVC write what lies there into its locks.

    It writes them in place, as it does its list of who reads and writes what, and refuses to start where one was left
    half-written by another that was killed. Such a file is removed, and written anew; not before it was refused, since
    another DVC may be about to write its end.

    Raises:
        CoopNetError: DVC fails.
    """
    arguments = ("commit", "--quiet", "--force", "--no-relink", *addresses)
    try:
        _dvc(workspace, *arguments)
    except CoopNetError:
        half = _half_written(workspace)
        if not half:
            raise
        for path in half:
            log.warning("%s was left half-written by a DVC that was killed; it is removed", path)
            path.unlink()
        _dvc(workspace, *arguments)


def _half_written(workspace: Workspace) -> list[Path]:
    """Files that DVC writes in place and that lack their end."""
    locks = [workspace.root / "dvc.lock", workspace.root / "studies" / "dvc.lock"]
    half = [path for path in locks if path.is_file() and not _is_whole(path.read_bytes())]
    users = workspace.root / ".dvc" / "tmp" / "rwlock"  # who reads and writes what
    return half + [users] * (users.is_file() and not _is_json(users.read_bytes()))


def _is_whole(lock: bytes) -> bool:
    """Whether a lock of DVC has its beginning and its end: a line that ends, and that has a value."""
    return lock.startswith(b"schema:") and lock.endswith(b"\n") and not lock.endswith(b":\n")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def check_repository(workspace: Workspace) -> None:
    """Refuse a folder in which DVC cannot work.

    Raises:
        CoopNetError: it is no repository of DVC or git.
    """
    for folder, remedy in ((".dvc", "dvc init"), (".git", "git init")):
        if not (workspace.root / folder).exists():
            raise CoopNetError(f"{workspace.root.absolute()} has no {folder}, so DVC cannot record here; `{remedy}`")


def _sort(workspace: Workspace, plan: Study, digests: Digests) -> tuple[list[str], list[str]]:
    """The phases that are whole and as the plan has them, and what is wrong with what lies there."""
    refused: list[str] = []
    incomplete: set[str] = set()
    for run in plan.everything():
        problem = records.of_run(workspace, plan, run, digests)
        if problem is None and (other := _other_source(workspace, plan, run)):
            problem = Problem("stale", f"{run.name} was made from other weights of {other} than lie here")
        problem = problem or records.of_step(workspace, steps.evaluate(workspace, plan, run), digests)
        if problem is not None:
            incomplete.add(run.phase)
            refused += [problem.text] if problem.kind != "missing" else []
    for phase, step in zip(LAST, steps.of_all_runs(workspace, plan), strict=True):
        problem = records.of_step(workspace, step, digests)
        if problem is not None:
            incomplete.add(phase)
            refused += [problem.text] if problem.kind == "damaged" else []
    losses = files.read_field(workspace.tables(plan.name) / "study.json", "losses")
    if losses:  # the pages are what such tables give, but not what this study gives
        incomplete |= set(LAST)
        missing = [f"{loss['experiment']}/seed{loss['seed']}" for loss in losses]
        refused.append(f"tables, claims and report of {plan.name}, which were made without {', '.join(missing)}")
    return [phase for phase in RECORDED if phase not in incomplete], refused


def _other_source(workspace: Workspace, plan: Study, run: Run) -> str | None:
    """The run whose checkpoint lies here with other weights than the one that this run says it was made from."""
    record = workspace.run(plan, run) / "run.json"
    said = [*(files.read_field(record, "parents") or []), files.read_field(record, "transfer") or {}]
    known = {one.get("key"): one.get("digest") for one in said}
    for source in (*run.sources, *run.parents):
        listed = files.read_field(workspace.run(plan, source) / "run.json", "files")
        if source.key in known and listed is not None and listed.get("model.safetensors") != known[source.key]:
            return source.name
    return None


def _address(name: str, phase: str) -> str:
    """How DVC calls a phase of a study."""
    return phase if name == FULL else f"studies/dvc.yaml:{phase}@{name}"


def _prepared(workspace: Workspace, dataset: Dataset) -> bool:
    """Whether the canonical arrays of a dataset lie there."""
    from coopnet.data import canonical

    try:
        canonical.verify(workspace.prepared(dataset.name), dataset)
    except CoopNetError:
        return False
    return True


def _dvc(workspace: Workspace, *arguments: str) -> str:
    """Run DVC, waiting for another one that has its locks; return what it printed.

    Raises:
        CoopNetError: it failed.
    """
    patient_until = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=workspace.root, capture_output=True, text=True
        )
        if done.returncode == 0:
            return done.stdout
        busy = any(words in done.stderr for words in BUSY)
        if not busy or time.monotonic() > patient_until:
            raise CoopNetError(f"dvc {arguments[0]} failed: {_last_lines(done.stderr or done.stdout)}")
        time.sleep(1)


def _last_lines(text: str) -> str:
    said: Iterable[str] = (line.strip() for line in text.splitlines())
    return " ".join(line for line in said if line and not line.startswith("Having any troubles"))[-2000:]
