"""Whether what lies in a workspace is what the plan has, by content and whichever engine made it.

A run says so itself: its record `run.json` has its key and the digests of its files. What is computed from runs has a
receipt, left by the command that computed it: digests of what it read and wrote, and the fingerprint of its source.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from coopnet import files
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs.steps import Step, command, fingerprint
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

TIMING = re.compile(
    rb"\n|epoch,train_seconds,evaluation_seconds,images_per_second\n"  # nothing but a line where nothing was trained
    rb"(\d+(,\d+(\.\d+)?){3}\n)+"
)
"""What `timing.csv` looks like, of which no record has a digest because it is never the same twice."""


class Problem(NamedTuple):
    """Why something has to be made.

    Attributes:
        kind: it is `missing`, was made from something else (`stale`), or is not what was made (`damaged`).
        text: a sentence without a full stop.
    """

    kind: Literal["missing", "stale", "damaged"]
    text: str


def of_run(workspace: Workspace, plan: Study, run: Run, digests: Digests) -> Problem | None:
    """What is wrong with the files of a run; None if they are those that the plan has."""
    wanted = targets(workspace, plan, run)
    path = wanted["run.json"]
    try:
        record = files.read_sealed(path)
    except CoopNetError as error:
        return Problem("damaged", str(error)) if path.exists() else Problem("missing", f"{path} is missing")
    if record.get("key") != run.key:
        return Problem("stale", f"{path} is of other parameters, source or parents than {run.name} has now")
    listed = {name: digest for name, digest in (record.get("files") or {}).items() if name in wanted}
    there = {name: path for name, path in wanted.items() if path.is_file()}
    damaged = [str(path) for name, path in there.items() if name in listed and digests(path) != listed[name]]
    if "timing.csv" in there and not _is_timing(there["timing.csv"]):
        damaged.append(str(there["timing.csv"]))
    if damaged:
        return Problem("damaged", f"not what the record of {run.name} names: {', '.join(damaged)}")
    missing = [str(path) for name, path in wanted.items() if name not in there]
    return Problem("missing", f"missing: {', '.join(missing)}") if missing else None


def _is_timing(path: Path) -> bool:
    """Whether a file is a whole table of seconds."""
    try:
        return TIMING.fullmatch(path.read_bytes()) is not None
    except OSError:
        return False


def of_step(workspace: Workspace, step: Step, digests: Digests) -> Problem | None:
    """What is wrong with the outputs of a step; None if it would write what is there."""
    for path in step.outputs:
        if not path.is_file():
            return Problem("missing", f"{path} is missing")
    receipt = step.record
    try:
        known = files.read_sealed(receipt)
        inputs, outputs = dict(known["inputs"]), dict(known["outputs"])
    except (CoopNetError, KeyError, TypeError, ValueError):
        return Problem("stale", f"{receipt} does not say what {step.name} was made from")
    if known.get("source") != fingerprint(step.source):
        return Problem("stale", f"{step.name} was made with other source")
    if known.get("words") != step.words or inputs.keys() != set(_names(workspace, step.inputs)):
        return Problem("stale", f"{step.name} was made with other parameters")
    for name, digest in inputs.items():
        if digests(workspace.root / name) != digest:
            return Problem("stale", f"{step.name} was made from another {name}")
    if outputs.keys() != set(_names(workspace, _promised(step))):
        return Problem("stale", f"{step.name} was made with other source")
    damaged = [name for name, digest in outputs.items() if digests(workspace.root / name) != digest]
    return Problem("damaged", f"not what {step.name} made: {', '.join(damaged)}") if damaged else None


@contextlib.contextmanager
def making(workspace: Workspace, planned: Callable[[], Step]) -> Iterator[None]:
    """Leave a receipt for what is computed inside.

    Args:
        workspace: where.
        planned: the step, by what the parameters are when it is called.

    Raises:
        CoopNetError: something that it reads is not what was made; or was changed meanwhile, so that nobody can say
            what the outputs are; or receipts cannot be written.
    """
    step, digests = planned(), Digests()
    before = _digests(workspace, step.inputs, digests)
    _refuse_damaged(workspace, step, digests)
    receipt = step.record
    try:
        receipt.unlink(missing_ok=True)
    except OSError as error:
        raise CoopNetError(f"cannot remove {receipt}: {files.reason(error)}") from error
    yield
    after = _digests(workspace, step.inputs, Digests())
    changed = [name for name, digest in after.items() if digest != before[name]]
    changed += ["params.yaml or the study"] if planned() != step else []
    if changed:
        raise CoopNetError(f"{changed[0]} was changed while {step.name} was made from it; run the same command again")
    _write(workspace, step, before, Digests())


def _refuse_damaged(workspace: Workspace, step: Step, digests: Digests) -> None:
    """Refuse inputs that are known to be other than they were made.

    Raises:
        CoopNetError: naming what is damaged, and the command that makes it again.
    """
    for path in step.records:
        if wrong := _of_record(path, digests):
            raise CoopNetError(wrong)
    for maker, record in step.makers:
        if damaged := _damaged(workspace, record, digests):
            raise CoopNetError(f"not what {maker} made: {', '.join(damaged)}; run `{command(maker)}` again")


def _damaged(workspace: Workspace, record: Path, digests: Digests) -> list[str]:
    """What a step made and now is something else; nothing where its receipt is of other inputs, or does not tell."""
    try:
        known = files.read_sealed(record)
        inputs, outputs = dict(known["inputs"]), dict(known["outputs"])
    except (CoopNetError, KeyError, TypeError, ValueError):
        return []
    if any(digests(workspace.root / path) != digest for path, digest in inputs.items()):
        return []
    there = {path: digest for path, digest in outputs.items() if (workspace.root / path).exists()}
    return [path for path, digest in there.items() if digests(workspace.root / path) != digest]


def _of_record(path: Path, digests: Digests) -> str | None:
    """What is wrong with a run's record and its history; None where nothing speaks against them.

    What is missing is for those to miss who need it.
    """
    if not path.exists():
        return None
    remedy = "make that run again (`coopnet train`, or the workflow)"
    try:
        record = files.read_sealed(path)
    except CoopNetError as error:
        return f"{error}; {remedy}"
    if not isinstance(record.get("files"), dict):
        return f"{path} is damaged (not the record of a run); {remedy}"
    history = path.with_name("history.csv")
    if history.exists() and digests(history) != record["files"].get(history.name):
        return f"{history} is not the file that {path} names; {remedy}"
    return None


def _promised(step: Step) -> tuple[Path, ...]:
    """The outputs whose bits are promised: all but wall-clock figures, so that the record has the same bits too."""
    return tuple(path for path in step.outputs if path.name != "timing.csv")


def _write(workspace: Workspace, step: Step, inputs: dict[str, Any], digests: Digests) -> None:
    content = {"source": fingerprint(step.source), "words": step.words, "inputs": inputs}
    content["outputs"] = _digests(workspace, _promised(step), digests)
    files.write_json(step.record, files.sealed(content))


def _digests(workspace: Workspace, paths: tuple[Path, ...], digests: Digests) -> dict[str, Any]:
    return {name: digests(path) for name, path in zip(_names(workspace, paths), paths, strict=True)}


def _names(workspace: Workspace, paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(workspace.root).as_posix() for path in paths]
