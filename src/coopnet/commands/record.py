"""`coopnet record` and `coopnet restore`: DVC learns what was made here, and brings it into another clone."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from coopnet import files, study
from coopnet.commands import stages
from coopnet.data.datasets import Dataset
from coopnet.files.digests import Digests, remembered
from coopnet.files.errors import CoopNetError
from coopnet.runs import receipts, steps, store
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import FULL, Run, Study

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds to wait for another DVC to let go of its locks."""

WHOLE = ("tables", "claims", "report", "timing")
"""Stages of a whole study."""

BUSY = ("Unable to acquire lock", "is busy")
"""What DVC says when another one has them."""


def record(workspace: Workspace, name: str) -> None:
    """Write into DVC's locks and cache what lies here of a study, each run as what its own record says it is.

    What is missing is left out. What was made from something else than the plan has now, or is damaged, is refused.

    Raises:
        CoopNetError: naming every run and step that was refused, after the others were recorded; or parameters were
            edited meanwhile, and then nothing is recorded; or DVC fails.
    """
    check_repository(workspace)
    stages.write(workspace, check=False)
    stages.write_fingerprints(workspace)
    plan = study.load(workspace.root, name)
    with remembered(workspace.stamps / name / "digests.json") as digests:
        sound, refused = _sort(workspace, plan, digests)
    known = _locks(workspace, name)
    before = {path: path.read_bytes() for path in known if path.is_file()}
    prepared = [f"prepare@{dataset}" for dataset in plan.datasets() if _prepared(workspace, plan.data[dataset])]
    _commit(workspace, "source", *prepared, *_shortest(plan, sound))
    if [run.key for run in study.load(workspace.root, name).runs.values()] != [run.key for run in plan.runs.values()]:
        for path in known:
            files.write_text(path, before[path].decode()) if path in before else path.unlink(missing_ok=True)
        raise CoopNetError("parameters were edited while DVC recorded, so nothing is recorded; run it again")
    log.info("recorded in DVC: %d of %d stages of %s", len(sound), len(_addresses(plan)), name)
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
    locks = [workspace.root / "dvc.lock", *sorted((workspace.root / "dvc").rglob("dvc.lock"))]
    half = [path for path in locks if path.is_file() and not _is_whole(path.read_bytes())]
    users = workspace.root / ".dvc" / "tmp" / "rwlock"  # who reads and writes what
    return half + [users] * (users.is_file() and not _is_json(users.read_bytes()))


def _is_whole(lock: bytes) -> bool:
    """Whether a lock of DVC has its beginning and its end."""
    return lock.startswith(b"schema:") and lock.endswith(b"\n")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def restore(workspace: Workspace, name: str) -> None:
    """Fetch what DVC recorded of a study from its remote, and take it for what this clone has made itself.

    Raises:
        CoopNetError: no remote is configured, DVC fails, or what is fetched is not all that the study has now; then
            the runs that are sound are kept all the same.
    """
    check_repository(workspace)
    if not _dvc(workspace, "remote", "list"):
        raise CoopNetError("DVC has no remote to fetch from; name one: dvc remote add --default NAME FOLDER_OR_URL")
    stages.source(workspace)
    plan = study.load(workspace.root, name)
    everything = _shortest(plan, set(_addresses(plan)))
    data = [f"prepare@{dataset}" for dataset in plan.datasets()]
    _dvc(workspace, "pull", "--quiet", *data, *everything)
    _dvc(workspace, "commit", "--quiet", "--force", "source")  # it is of this clone, and nothing that is fetched
    runs = Store(store.default_place(workspace.root))
    with remembered(workspace.stamps / name / "digests.json") as digests:
        for run in plan.runs.values():
            if receipts.of_run(workspace, plan, run, digests) is None and not runs.finished(run.key):
                runs.adopt(run.key, targets(workspace, plan, run), f"{name}/{run.name}")
        changed = json.loads(_dvc(workspace, "status", "--json", *data, *everything))
        for step, address in zip(steps.steps(workspace, plan), _step_addresses(plan), strict=True):
            if address not in changed:
                receipts.give(workspace, step, digests)
    if changed:
        raise CoopNetError(
            f"restored, but {len(changed)} stages are not what DVC recorded, the first {next(iter(changed))}: "
            f"`dvc status {next(iter(changed))}` says why, and either engine makes them"
        )
    log.info("restored %s: %d runs", name, len(plan.runs))


def check_repository(workspace: Workspace) -> None:
    """Refuse a folder in which DVC cannot work.

    Raises:
        CoopNetError: it is no repository of DVC or git.
    """
    for folder, remedy in ((".dvc", "dvc init"), (".git", "git init")):
        if not (workspace.root / folder).exists():
            raise CoopNetError(f"{workspace.root.absolute()} has no {folder}, so DVC cannot record here; `{remedy}`")


def _sort(workspace: Workspace, plan: Study, digests: Digests) -> tuple[set[str], list[str]]:
    """Addresses of the stages whose outputs are as the plan has them, and what is wrong with others that lie there."""
    sound, refused = set(), []
    for run in plan.runs.values():  # parents come first
        problem = receipts.of_run(workspace, plan, run, digests)
        if problem is not None:
            refused += [problem.text] if problem.kind != "missing" else []
        elif other := _other_parent(workspace, plan, run):
            refused.append(f"{run.name} was made from other weights of {other} than lie here")
        elif all(_address(plan, f"train/{parent.name}") in sound for parent in run.parents):
            sound.add(_address(plan, f"train/{run.name}"))
    for step, address in zip(steps.steps(workspace, plan), _step_addresses(plan), strict=True):
        problem = receipts.of_step(workspace, step, digests)
        if problem is None:
            sound.add(address)
        elif problem.kind == "damaged":
            refused.append(problem.text)
    losses = files.look(workspace.tables(plan.name) / "study.json", "losses")
    if losses:  # the pages are what such tables give, but not what this study gives
        sound -= {_address(plan, stage) for stage in WHOLE}
        missing = [f"{loss['experiment']}/seed{loss['seed']}" for loss in losses]
        refused.append(f"tables, claims and report of {plan.name}, which were made without {', '.join(missing)}")
    return sound, refused


def _other_parent(workspace: Workspace, plan: Study, run: Run) -> str | None:
    """The parent that lies here with other weights than the run says it was made from."""
    said = files.look(workspace.run(plan, run) / "run.json", "parents") or []
    for parent, known in zip(run.parents, said, strict=True):
        listed = files.look(workspace.run(plan, parent) / "run.json", "files")
        if listed is not None and listed.get("model.safetensors") != known["digest"]:
            return parent.name
    return None


def _address(plan: Study, stage: str) -> str:
    """How DVC calls a stage: `tables`, or `train/<experiment>/seed<k>`."""
    command, *run = stage.split("/")
    if run:
        return f"dvc/{plan.name}/{run[0]}/dvc.yaml:{command}@{run[1]}"
    return command if plan.name == FULL else f"dvc/{plan.name}/dvc.yaml:{command}"


def _step_addresses(plan: Study) -> list[str]:
    """Addresses of the steps of a study, in the order of `steps.steps`."""
    evaluated = [f"evaluate/{run.name}" for run in plan.runs.values()]
    return [_address(plan, stage) for stage in (*evaluated, *WHOLE)]


def _addresses(plan: Study) -> list[str]:
    """Addresses of all stages of a study."""
    return [*(_address(plan, f"train/{run.name}") for run in plan.runs.values()), *_step_addresses(plan)]


def _shortest(plan: Study, stages_: set[str]) -> list[str]:
    """The same stages, whole files by the name of the file: DVC looks at every target by itself."""
    groups: dict[str, list[str]] = {}
    for address in _addresses(plan):
        groups.setdefault(address.partition(":")[0], []).append(address)
    found: list[str] = []
    for file, addresses in groups.items():
        whole = file.endswith(".yaml") and stages_.issuperset(addresses)
        found += [file] if whole else [address for address in addresses if address in stages_]
    return found


def _locks(workspace: Workspace, name: str) -> list[Path]:
    """The lock files that recording a study writes."""
    written = sorted((workspace.root / "dvc" / name).rglob("dvc.yaml"))
    return [workspace.root / "dvc.lock", *(path.with_name("dvc.lock") for path in written)]


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
