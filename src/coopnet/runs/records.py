"""Records beside results: what each result was made from, and whether it still matches the plan.

The record of a run, `run.json`, has the run's key and the digests of its files. The record of a step
(`evaluation.json` of a run, `tables.record.json`, …) has the digests of the step's inputs and outputs, and the
fingerprint of the source that decides the outputs. Both kinds are sealed: a record holds its own digest. Results are
compared by content, so either engine may have made them.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from coopnet import files
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs.steps import Step, fingerprint
from coopnet.runs.workspace import Workspace, targets
from coopnet.study import Run, Study

RECORD, TIMED = "run.json", "timing.csv"
TIMING = re.compile(
    rb"\n|epoch,train_seconds,evaluation_seconds,images_per_second\n"  # only a newline if nothing was trained
    rb"(\d+(,\d+(\.\d+)?){3}\n)+"
)
"""Format of `timing.csv`. Records have no digest of it, because it is different each time."""


class Problem(NamedTuple):
    """Why a result has to be made again.

    Attributes:
        kind: the result is `missing`, was made from other inputs (`stale`), or was changed afterwards (`damaged`).
        text: a sentence without a full stop.
    """

    kind: Literal["missing", "stale", "damaged"]
    text: str


def check_run(workspace: Workspace, plan: Study, run: Run, digests: Digests) -> Problem | None:
    """Compare the files of a run with the plan, and with the weights of its parents here; None if they match."""
    paths = targets(workspace, plan, run)
    problem = check_files(paths, run.key, run.name, digests)
    if problem is None and (other := other_source(workspace, plan, run, paths[RECORD])):
        text = f"{run.name} was made from other weights of {other} than those in this workspace; make it again"
        return Problem("stale", text)
    return problem


def other_source(workspace: Workspace, plan: Study, run: Run, record: Path) -> str | None:
    """The parent whose weights here differ from those that a record of this run names; None if all agree.

    The same run has the same key on every machine, and other weights on one that rounds differently.
    """
    made = _readable(record)
    known = {one.get("key"): one.get("digest") for one in (*made.get("parents", ()), made.get("transfer", {}))}
    for source in (*run.sources, *run.parents):
        here = _readable(workspace.run(plan, source) / RECORD)
        weights = here.get("files", {}).get("model.safetensors")
        if source.key in known and here.get("key") == source.key and weights != known[source.key]:
            return source.name
    return None


def _readable(record: Path) -> dict[str, Any]:
    """A run's record; empty if it is missing or damaged, which `check_files` says."""
    with contextlib.suppress(CoopNetError):
        return files.read_sealed(record, files.LARGEST_RECORD)
    return {}


def read_run(folder: Path, run: Run, remedy: str = "") -> dict[str, Any]:
    """Read the record of a planned run.

    Args:
        folder: folder of the run in a workspace.
        run: the run that the plan has there.
        remedy: what to do if it is missing; by default the command that makes it.

    Raises:
        CoopNetError: the record is missing or damaged, or has another key.
    """
    if not (folder / RECORD).exists():
        verb, name = "transfer" if run.at_transfer else "train", folder.parents[2].name
        remedy = remedy or f"run `coopnet {verb} {name} {run.experiment} {run.seed}`"
        raise CoopNetError(f"{folder / RECORD} is missing; {remedy}")
    record = files.read_sealed(folder / RECORD)
    if record.get("key") != run.key:
        raise CoopNetError(
            f"{folder / RECORD} names other parameters or other source than the plan has now for {run.name}; "
            f"make it again (`coopnet train`, or the workflow)"
        )
    return record


def check_files(paths: Mapping[str, Path], key: str | None, name: str, digests: Digests) -> Problem | None:
    """Compare files of a run with its record and key; None if they match.

    Args:
        paths: paths of the record and of other files, by their names in the record; they may be in any folder.
        key: the required run key; None for any.
        name: name of the run, for messages.
        digests: computes digests of files.
    """
    path = paths[RECORD]
    try:
        record = files.read_sealed(path, files.LARGEST_RECORD)
    except CoopNetError as error:
        return Problem("damaged", str(error)) if path.exists() else Problem("missing", f"{path} is missing")
    if key is not None and record.get("key") != key:
        return Problem("stale", f"{path} was made with other parameters, source or parents than {name} has now")
    listed = record.get("files")
    if not isinstance(listed, dict):
        return Problem("damaged", f"{path} is damaged (not the record of a run)")
    there = {name: path for name, path in paths.items() if path.is_file()}
    damaged = [str(path) for name, path in there.items() if name in listed and digests(path) != listed[name]]
    if TIMED in there and not _is_timing(there[TIMED]):
        damaged.append(str(there[TIMED]))
    if damaged:
        return Problem("damaged", f"differs from the record of {name}: {', '.join(damaged)}")
    missing = [str(path) for name, path in paths.items() if name not in there]
    return Problem("missing", f"missing: {', '.join(missing)}") if missing else None


def _is_timing(path: Path) -> bool:
    """Whether a file is a complete table of timings."""
    try:
        return TIMING.fullmatch(path.read_bytes()) is not None
    except OSError:
        return False


def check_step(workspace: Workspace, step: Step, digests: Digests) -> Problem | None:
    """Compare the outputs of a step with its record and the plan; None if they match."""
    for path in step.outputs:
        if not path.is_file():
            return Problem("missing", f"{path} is missing")
    record = _read_step(step.record)
    if record is None:
        return Problem("stale", f"{step.record} does not say what {step.name} was made from")
    if record["source"] != fingerprint(step.source):
        return Problem("stale", f"{step.name} was made with another version of the source")
    if record["words"] != step.parameters or record["inputs"].keys() != set(_names(workspace, step.inputs)):
        return Problem("stale", f"{step.name} was made with other parameters ({step.record})")
    if changed := next(_changed(workspace, record["inputs"], digests), None):
        return Problem("stale", f"{step.name} was made from another {changed}")
    if record["outputs"].keys() != set(_names(workspace, _promised(step))):
        return Problem("stale", f"{step.name} was made with another version of the source")
    damaged = list(_changed(workspace, record["outputs"], digests))
    return Problem("damaged", f"changed since {step.name} wrote it: {', '.join(damaged)}") if damaged else None


def inputs_of(workspace: Workspace, step: Step) -> dict[str, Any]:
    """The digests of the inputs from which a step's outputs were made, by path.

    Raises:
        CoopNetError: the outputs have no record, or were changed afterwards.
    """
    known = _read_step(step.record)
    if known is None:
        raise CoopNetError(f"{step.record} does not say what {step.name} was made from; restore it, e.g. from git")
    if damaged := list(_changed(workspace, known["outputs"], Digests())):
        raise CoopNetError(f"changed since {step.name} wrote it: {', '.join(damaged)}; restore it, e.g. from git")
    return known["inputs"]


def _read_step(path: Path) -> dict[str, Any] | None:
    """The record of a step; None if it is missing or damaged."""
    try:
        record = files.read_sealed(path)
        tables = {"inputs": dict(record["inputs"]), "outputs": dict(record["outputs"])}
    except (CoopNetError, KeyError, TypeError, ValueError):
        return None
    return {"source": record.get("source"), "words": record.get("words")} | tables


def _changed(workspace: Workspace, listed: Mapping[str, Any], digests: Digests) -> Iterator[str]:
    """The files whose content differs from these digests."""
    return (name for name, digest in listed.items() if digests(workspace.root / name) != digest)


@contextlib.contextmanager
def recording(
    workspace: Workspace, planned: Callable[[], Step], elsewhere: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[None]:
    """Write the record of a step around its computation: inputs are checked before it, the record is written after it.

    The earlier record is removed before the computation. It comes back if the computation is refused and the outputs
    are still the ones that it names.

    Args:
        workspace: has the inputs and outputs.
        planned: returns the step as the current parameters define it.
        elsewhere: digests of inputs that are not in the workspace, by path.

    Raises:
        CoopNetError: an input is damaged, or was changed during the computation, so that the outputs cannot be
            attributed to it; or records cannot be written.
    """
    step, digests = planned(), Digests()
    before = _digests(workspace, step.inputs, digests)
    _refuse_damaged(workspace, step, digests)
    known = _read_step(step.record)
    earlier = step.record.read_text(encoding="utf-8") if known else ""
    files.remove(step.record)
    try:
        yield
    except CoopNetError:
        if known and not any(_changed(workspace, known["outputs"], Digests())):  # refused before anything was written
            files.write_text(step.record, earlier)
        raise
    after = _digests(workspace, step.inputs, Digests())
    changed = [name for name, digest in after.items() if digest != before[name]]
    changed += ["params.yaml or the study"] if planned() != step else []
    if changed:
        raise CoopNetError(f"{changed[0]} was changed while {step.name} was made from it; run the same command again")
    _write(workspace, step, {name: digest or elsewhere.get(name) for name, digest in before.items()}, Digests())


def _refuse_damaged(workspace: Workspace, step: Step, digests: Digests) -> None:
    """Refuse inputs that differ from their records.

    Raises:
        CoopNetError: names the damaged files and the command that makes them again.
    """
    for path in step.records:
        there = {one.name: one for one in (path, path.with_name("history.csv")) if one.exists()}
        problem = check_files({RECORD: path} | there, None, path.parent.name, digests)
        if problem and problem.kind == "damaged":
            raise CoopNetError(f"{problem.text} ({path}); make that run again (`coopnet train`, or the workflow)")
    for producer in step.producers:
        if damaged := _damaged(workspace, producer.record, digests):
            raise CoopNetError(
                f"changed since {producer.name} wrote it: {', '.join(damaged)}; run `{producer.command}` again"
            )


def _damaged(workspace: Workspace, record: Path, digests: Digests) -> list[str]:
    """Outputs of a step that were changed later; empty if its record is unreadable or of other inputs."""
    known = _read_step(record)
    if known is None or any(_changed(workspace, known["inputs"], digests)):
        return []
    there = {path: digest for path, digest in known["outputs"].items() if (workspace.root / path).exists()}
    return list(_changed(workspace, there, digests))


def _promised(step: Step) -> tuple[Path, ...]:
    """The outputs that are the same bit for bit each time (all but timings), so that the record is the same too."""
    return tuple(path for path in step.outputs if path.name != TIMED)


def _write(workspace: Workspace, step: Step, inputs: dict[str, Any], digests: Digests) -> None:
    content = {"source": fingerprint(step.source), "words": step.parameters, "inputs": inputs}
    content["outputs"] = _digests(workspace, _promised(step), digests)
    files.write_json(step.record, files.sealed(content))


def _digests(workspace: Workspace, paths: tuple[Path, ...], digests: Digests) -> dict[str, Any]:
    return {name: digests(path) for name, path in zip(_names(workspace, paths), paths, strict=True)}


def _names(workspace: Workspace, paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(workspace.root).as_posix() for path in paths]
