"""Records: what lies beside every result and says what made it; and whether a result is what the plan has.

There are two, told apart by what makes a result. A run's record `run.json` has its key and the digests of its files.
The record of a step, such as `tables.record.json`, has the digests of what the step read and wrote and the fingerprint
of the source that decides its outputs. Results are compared by content, whichever engine made them.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from coopnet import files
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs.steps import Step, command, fingerprint
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

RECORD, TIMED = "run.json", "timing.csv"
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
    return of_files(targets(workspace, plan, run), run.key, run.name, digests)


def of_files(paths: Mapping[str, Path], key: str | None, name: str, digests: Digests) -> Problem | None:
    """What is wrong with files of a run, wherever they lie; None if they are those of that key.

    Args:
        paths: of the record and of other files, by their names in the record.
        key: that the run has to have; None for any.
        name: of the run, for messages.
        digests: of files.
    """
    path = paths[RECORD]
    try:
        record = files.read_sealed(path, files.LARGEST_RECORD)
    except CoopNetError as error:
        return Problem("damaged", str(error)) if path.exists() else Problem("missing", f"{path} is missing")
    if key is not None and record.get("key") != key:
        return Problem("stale", f"{path} is of other parameters, source or parents than {name} has now")
    listed = record.get("files")
    if not isinstance(listed, dict):
        return Problem("damaged", f"{path} is damaged (not the record of a run)")
    there = {name: path for name, path in paths.items() if path.is_file()}
    damaged = [str(path) for name, path in there.items() if name in listed and digests(path) != listed[name]]
    if TIMED in there and not _is_timing(there[TIMED]):
        damaged.append(str(there[TIMED]))
    if damaged:
        return Problem("damaged", f"not what the record of {name} names: {', '.join(damaged)}")
    missing = [str(path) for name, path in paths.items() if name not in there]
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
    path = step.record
    try:
        known = files.read_sealed(path)
        inputs, outputs = dict(known["inputs"]), dict(known["outputs"])
    except (CoopNetError, KeyError, TypeError, ValueError):
        return Problem("stale", f"{path} does not say what {step.name} was made from")
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
    """Leave a record of what is computed inside.

    Args:
        workspace: where.
        planned: the step, by what the parameters are when it is called.

    Raises:
        CoopNetError: something that it reads is not what was made; or was changed meanwhile, so that nobody can say
            what the outputs are; or records cannot be written.
    """
    step, digests = planned(), Digests()
    before = _digests(workspace, step.inputs, digests)
    _refuse_damaged(workspace, step, digests)
    path = step.record
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CoopNetError(f"cannot remove {path}: {files.reason(error)}") from error
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
        there = {one.name: one for one in (path, path.with_name("history.csv")) if one.exists()}
        problem = of_files({RECORD: path} | there, None, path.parent.name, digests)
        if problem and problem.kind == "damaged":
            raise CoopNetError(f"{problem.text}; make that run again (`coopnet train`, or the workflow)")
    for maker, record in step.makers:
        if damaged := _damaged(workspace, record, digests):
            raise CoopNetError(f"not what {maker} made: {', '.join(damaged)}; run `{command(maker)}` again")


def _damaged(workspace: Workspace, record: Path, digests: Digests) -> list[str]:
    """What a step made and now is something else; nothing where its record is of other inputs, or does not tell."""
    try:
        known = files.read_sealed(record)
        inputs, outputs = dict(known["inputs"]), dict(known["outputs"])
    except (CoopNetError, KeyError, TypeError, ValueError):
        return []
    if any(digests(workspace.root / path) != digest for path, digest in inputs.items()):
        return []
    there = {path: digest for path, digest in outputs.items() if (workspace.root / path).exists()}
    return [path for path, digest in there.items() if digests(workspace.root / path) != digest]


def _promised(step: Step) -> tuple[Path, ...]:
    """The outputs whose bits are promised: all but wall-clock figures, so that the record has the same bits too."""
    return tuple(path for path in step.outputs if path.name != TIMED)


def _write(workspace: Workspace, step: Step, inputs: dict[str, Any], digests: Digests) -> None:
    content = {"source": fingerprint(step.source), "words": step.words, "inputs": inputs}
    content["outputs"] = _digests(workspace, _promised(step), digests)
    files.write_json(step.record, files.sealed(content))


def _digests(workspace: Workspace, paths: tuple[Path, ...], digests: Digests) -> dict[str, Any]:
    return {name: digests(path) for name, path in zip(_names(workspace, paths), paths, strict=True)}


def _names(workspace: Workspace, paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(workspace.root).as_posix() for path in paths]
