"""From `params.yaml` to the list of runs: who descends from whom, and the key of each.

Pure and light: no torch, no results, so that a workflow engine can ask for it while it parses.
"""

import difflib
import functools
import graphlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from coopnet import files
from coopnet.data.datasets import DATASETS, USUAL_SIZE, Dataset
from coopnet.data.normalization import normalization
from coopnet.files import yaml_files
from coopnet.files.errors import CoopNetError
from coopnet.study import numerics, phases
from coopnet.study.settings import GROWING, JOINING, Experiment, OnTheFly, Overlay, Parameters, Part

FULL = "full"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
RESERVED = ("bench", "dvc")
"""What would be a study's folder below `results/` and `dvc/` is another thing there."""
GENERATIONS = 100
"""Experiments, each a child of the one before, at most."""
MOST_RUNS = 100_000
"""Runs of a study, at most: generations of many parents each multiply, and who asks for more has mistyped."""
Checked = TypeVar("Checked", bound=BaseModel)


@dataclass(frozen=True)
class Run:
    """One experiment with one seed.

    Attributes:
        phase: the link of the chain that makes it.
        key: hash of all that decides the result: resolved row, seed, threads, data, parents' keys, numerics' source.
        dataset: what it learns from and is measured on.
        transfer: the run that builds the network which this one trains on, out of the parents; None where there is
            nothing to build.
        at_transfer: whether this is such a run: a network right after its transfer.
    """

    experiment: str
    seed: int
    row: Experiment
    parents: tuple["Run", ...]
    threads: int
    phase: str
    key: str
    dataset: Dataset
    transfer: "Run | None" = None
    at_transfer: bool = False

    @property
    def name(self) -> str:
        """For messages: `one3/seed0`, `one3_to_5_split/seed0 at transfer`."""
        return f"{self.experiment}/seed{self.seed}" + " at transfer" * self.at_transfer

    @property
    def sources(self) -> tuple["Run", ...]:
        """The runs whose checkpoints it reads: its transfer where it has one, else its parents."""
        return (self.transfer,) if self.transfer else self.parents


@dataclass(frozen=True)
class Study:
    """All experiments × seeds of one parameter set; `data` are all datasets that it could name."""

    name: str
    title: str
    description: str
    device: str
    threads: int
    experiments: dict[str, Experiment]
    runs: dict[tuple[str, int], Run]
    data: dict[str, Dataset]

    def run(self, experiment: str, seed: int) -> Run:
        """The run of that name.

        Raises:
            CoopNetError: there is none.
        """
        if experiment not in self.experiments:
            hint = did_you_mean(experiment, self.experiments)
            raise CoopNetError(f"study {self.name} has no experiment {experiment!r}{hint}")
        if (experiment, seed) not in self.runs:
            seeds = self.seeds(experiment)
            raise CoopNetError(f"experiment {experiment} of study {self.name} has seeds {seeds}, not {seed}")
        return self.runs[experiment, seed]

    def everything(self) -> Iterator[Run]:
        """All runs and the transfers that they begin with, each after what it is made from."""
        for run in self.runs.values():
            if run.transfer:
                yield run.transfer
            yield run

    def of_phase(self, phase: str) -> list[Run]:
        """The runs, or transfers, that a phase makes."""
        return [run for run in self.everything() if run.phase == phase]

    def seeds(self, experiment: str) -> list[int]:
        """The seeds of an experiment: its own, and those that its children need."""
        return sorted(seed for name, seed in self.runs if name == experiment)

    def datasets(self) -> list[str]:
        """The datasets that its runs need."""
        return sorted({row.data.dataset for row in self.experiments.values()})


def load(root: Path, name: str = FULL) -> Study:
    """Read and check a study.

    Args:
        root: the folder with `params.yaml`; overlays are `studies/<name>.yaml` in it.
        name: `full` for `params.yaml` itself.

    Raises:
        CoopNetError: anything wrong with the files, naming key, value and remedy.
    """
    parameters, overlay, source = _read(root, name)
    experiments, data = resolve(parameters, overlay, source), known_datasets(parameters)
    return Study(
        name=name,
        title=overlay.title or parameters.title,
        description=overlay.description if overlay.description is not None else parameters.description,
        device=overlay.device or parameters.device,
        threads=overlay.threads or parameters.threads,
        experiments=experiments,
        runs=plan(
            experiments,
            overlay.seeds or parameters.seeds,
            overlay.threads or parameters.threads,
            root,
            source,
            data,
        ),
        data=data,
    )


def datasets(root: Path) -> dict[str, Dataset]:
    """All datasets of a workspace by name: those that come with the project, and what `params.yaml` describes.

    Raises:
        CoopNetError: anything wrong with the file, its rows apart.
    """
    path = root / "params.yaml"
    if not path.is_file():  # what comes with the project can be prepared anywhere
        return dict(DATASETS)
    return known_datasets(check(Parameters, read_yaml(path), path.name))


def known_datasets(parameters: Parameters) -> dict[str, Dataset]:
    """The same, of parameters that were read."""
    return DATASETS | {name: row.dataset(name) for name, row in parameters.datasets.items()}


def _read(root: Path, name: str) -> tuple[Parameters, Overlay, str]:
    """`params.yaml`, what a study lays over it, and what to call the two in messages."""
    source = "params.yaml"
    parameters = check(Parameters, read_yaml(root / source), source)
    if name == FULL:
        return parameters, Overlay(), source
    path = root / "studies" / f"{name}.yaml"
    known = names(root)
    if name not in known:
        raise CoopNetError(
            f"there is no study {_short(repr(name))}{did_you_mean(name, known)} (known: {', '.join(known)})"
        )
    overlay = check(Overlay, read_yaml(path), f"studies/{name}.yaml")
    return parameters, overlay, f"studies/{name}.yaml over {source}"


def names(root: Path) -> list[str]:
    """All studies of a workspace: `full`, and its overlays.

    Raises:
        CoopNetError: an overlay is called what no study can be called.
    """
    overlays = sorted(path.stem for path in (root / "studies").glob("*.yaml") if path.name != "dvc.yaml")
    for name in overlays:
        if name == FULL or name in RESERVED or not NAME.fullmatch(name):
            raise CoopNetError(f"studies: {_short(repr(name + '.yaml'))} cannot be a study; rename the file: {RULE}")
    return [FULL, *overlays]


RULE = f"small letters, digits, _ and -, at most 64, and none of {', '.join((FULL, *RESERVED))}"


def checked_name(name: str) -> str:
    """The name of a study as somebody gave it, which becomes part of paths.

    Raises:
        CoopNetError: it cannot be one.
    """
    if not NAME.fullmatch(name):
        raise CoopNetError(f"there is no study {_short(repr(name))}: a name has {RULE}")
    return name


def plain(root: Path, name: str) -> Experiment:
    """What a row of a study is that says nothing by itself: the defaults, as the study has them."""
    parameters, overlay, source = _read(root, name)
    content = merge(parameters.defaults | {"about": "defaults"}, overlay.every_experiment)
    row = check(Experiment, content, f"{source}: defaults", known_datasets(parameters))
    return scale(row, overlay.time_scale)


def rows(root: Path) -> dict[str, Experiment]:
    """All rows of `params.yaml`, whichever of them a study has.

    Raises:
        CoopNetError: anything wrong with the file.
    """
    return resolve(*_read(root, FULL))


def resolve(parameters: Parameters, overlay: Overlay, source: str) -> dict[str, Experiment]:
    """Merge defaults, rows and overlay into full rows; check each, and who descends from whom."""
    for key in [*(overlay.only or []), *overlay.experiments]:
        if key not in parameters.experiments:
            hint = did_you_mean(key, parameters.experiments)
            raise CoopNetError(f"{source}: {key!r} is not an experiment of params.yaml{hint}")
    experiments, data = {}, known_datasets(parameters)
    for name, row in parameters.experiments.items():
        merged = merge(parameters.defaults, row)
        if not _chosen(name, merged.get("part", Experiment.model_fields["part"].default), overlay):
            continue
        merged = merge(merged, overlay.every_experiment)
        merged = merge(merged, overlay.experiments.get(name, {}))
        experiment = check(Experiment, merged, f"{source}: experiments.{name}", data)
        _check_size(experiment, data[experiment.data.dataset], f"{source}: experiments.{name}")
        experiments[name] = scale(experiment, overlay.time_scale)
    if not experiments:
        wanted = ", ".join(overlay.parts or ())
        raise CoopNetError(f"{source}: params.yaml has no experiment of parts {wanted}; leave parts out, or add rows")
    for name, experiment in experiments.items():
        for parent in experiment.parents:
            if parent not in experiments:
                others = [other for other in experiments if other != name]
                hint = did_you_mean(parent, others)
                if parent in parameters.experiments:
                    hint = "; add it to `only`, or its part to `parts`"
                where = f"{source}: experiments.{name}.parents"
                raise CoopNetError(f"{where}: {parent!r} is not an experiment of this study{hint}")
    _check_circles(experiments, source)
    for name, experiment in experiments.items():
        for parent in experiment.parents:
            _check_descent(experiment, experiments[parent], f"{source}: experiments.{name}.parents: {parent}")
    return experiments


def _check_size(row: Experiment, dataset: Dataset, where: str) -> None:
    """Refuse images that a network's strides would leave nothing of."""
    if dataset.size < row.model.smallest:
        raise CoopNetError(
            f"{where}.model.family: {row.model.family} takes images of {row.model.smallest} pixels or more a side, "
            f"not {dataset.size}; set datasets.{dataset.name}.size to that, or choose another family"
        )


def _chosen(name: str, part: Any, overlay: Overlay) -> bool:
    """Whether an overlay keeps a row: by name, by part, or because it leaves nothing out."""
    if overlay.only is None and overlay.parts is None:
        return True
    known = part in get_args(Part)  # else the row is kept, to be refused for it
    return not known or name in (overlay.only or []) or part in (overlay.parts or [])


def _check_circles(experiments: Mapping[str, Experiment], source: str) -> None:
    """Refuse experiments that descend from themselves, or through more generations than anybody means."""
    try:
        order = list(
            graphlib.TopologicalSorter({name: row.parents for name, row in experiments.items()}).static_order()
        )
    except graphlib.CycleError as error:
        circle = error.args[1]
        raise CoopNetError(
            f"{source}: experiments.{circle[0]}.parents: {' → '.join(circle)} is a circle; remove one of these parents"
        ) from None
    generation: dict[str, int] = {}
    for name in order:
        generation[name] = 1 + max((generation[parent] for parent in experiments[name].parents), default=0)
        if generation[name] > GENERATIONS:
            raise CoopNetError(
                f"{source}: experiments.{name}.parents: {experiments[name].parents[0]!r} is {GENERATIONS} generations "
                "down already; let it descend from an older one"
            )


def _check_descent(child: Experiment, parent: Experiment, where: str) -> None:
    """Refuse a child that its parent's weights do not fit."""
    pairs: list[tuple[str, Any, Any]] = [("data.dataset", child.data.dataset, parent.data.dataset)]
    pairs += [("data.normalization", child.data.normalization, parent.data.normalization)]
    if child.data.validation:  # else the parent would have learnt from the child's validation images
        pairs.append(("data.validation", child.data.validation, parent.data.validation))
        pairs.append(("data.split_seed", child.data.split_seed, parent.data.split_seed))
    if not child.taught:
        fields = ["family", "name", "split"]
        fields += [] if child.model.wrapped else ["depth", "block", "width"]
        fields += ["branches", "gate", "trunk"] if child.start.kind == "continue" else []
        pairs += [(f"model.{field}", getattr(child.model, field), getattr(parent.model, field)) for field in fields]
    for field, own, other in pairs:
        if own != other:
            raise CoopNetError(f"{where} has {field} {other}, its child {own}; they have to agree: give both the same")
    if child.start.kind in JOINING and parent.model.branches != 1:
        raise CoopNetError(
            f"{where} has {parent.model.branches} branches; start {child.start.kind} takes networks of one branch"
        )
    if child.start.kind in GROWING:
        if (parent.model.gate, parent.model.trunk) not in (("learned", "shared"), ("none", "shared")):
            raise CoopNetError(
                f"{where} has model.gate {parent.model.gate} and model.trunk {parent.model.trunk}; "
                f"start {child.start.kind} grows networks with a learned gate, or none, on a shared trunk"
            )
        before, after = parent.model.branches, child.model.branches
        if after <= before:
            raise CoopNetError(f"{where} has {before} branches; its child must have more, not {after}")
        donors = getattr(child.start, "donors", None)
        if donors is not None and (len(donors) != after - before or not set(donors) <= set(range(1, before + 1))):
            raise CoopNetError(
                f"{where}: start.donors {donors} must name {after - before} of its branches 1 to {before}"
            )


def scale(experiment: Experiment, factor: float) -> Experiment:
    """Stretch a row in time: epochs, milestones and ramp-up together, so that a short study still distils.

    The prior of `masked` opens at shares of the steps, so it scales by itself.
    """
    if factor == 1:
        return experiment
    training = experiment.training

    def stretched(epochs: int) -> int:
        return max(1, math.floor(epochs * factor + 0.5))

    epochs = stretched(training.epochs) if training.epochs else 0

    def milestone(epoch: int) -> int:
        # What is reached stays reached: rounding must not take the last drop of the learning rate away.
        return stretched(epoch) if epoch >= training.epochs else min(stretched(epoch), max(1, epochs - 1))

    schedule, distillation = training.schedule, training.distillation
    if isinstance(distillation, OnTheFly):
        distillation = distillation.model_copy(update={"rampup": distillation.rampup * factor})
    longer = {
        "epochs": epochs,
        "schedule": schedule.model_copy(update={"milestones": [milestone(m) for m in schedule.milestones]}),
        "distillation": distillation,
    }
    return experiment.model_copy(update={"training": training.model_copy(update=longer)})


def plan(
    experiments: Mapping[str, Experiment],
    seeds: list[int],
    threads: int,
    root: Path,
    source: str,
    data: Mapping[str, Dataset],
) -> dict[tuple[str, int], Run]:
    """List all runs, parents before children. No experiment may descend from itself (`resolve` sees to that).

    Replicate k of a row with m parents takes replicate m·k + j of its j-th parent (from 0), so no network serves two
    replicates; a parent experiment has its own seeds and all that its children ask for.
    """
    runs: dict[tuple[str, int], Run] = {}

    def add(name: str, seed: int, child: str) -> Run:
        if (name, seed) in runs:
            return runs[name, seed]
        row = experiments[name]
        if row.start.kind == "imported" and seed not in (row.seeds or []):
            raise CoopNetError(
                f"{source}: experiments.{child}: its replicates need seed {seed} of {name}, an imported checkpoint "
                f"with seeds {row.seeds}; {_instead(child, experiments[child], row)}"
            )
        if len(runs) >= MOST_RUNS:
            raise CoopNetError(
                f"{source}: experiments.{child}: the study has more than {MOST_RUNS:,} runs, with the "
                f"replicates that children take of their parents; give fewer seeds than {len(seeds)}, or fewer parents"
            )
        m = len(row.parents)
        parents = tuple(add(parent, m * seed + j, name) for j, parent in enumerate(row.parents))
        above = [experiments[parent] for parent in row.parents]
        dataset = data[row.data.dataset]

        def made(row: Experiment, phase: str, transfer: Run | None = None, *, at_transfer: bool = False) -> Run:
            key = run_key(row, seed, threads, parents, root, dataset)
            return Run(name, seed, row, parents, threads, phase, key, dataset, transfer, at_transfer)

        transfer = None
        if phases.begins_with_transfer(row):
            transfer = made(phases.untrained(row), phases.of_transfer(row, above), at_transfer=True)
        run = made(row, phases.of_run(row, above), transfer)
        runs[name, seed] = run
        return run

    for name, row in experiments.items():
        for seed in row.seeds or seeds:
            add(name, seed, name)
    return runs


def _instead(name: str, child: Experiment, imported: Experiment) -> str:
    """What to do where an imported checkpoint would have to serve twice."""
    if len(child.parents) == 1:
        return f"set experiments.{name}.seeds: {imported.seeds}"
    return "import a checkpoint for each place among its parents, with the seed that place asks for"


def run_key(row: Experiment, seed: int, threads: int, parents: tuple[Run, ...], root: Path, dataset: Dataset) -> str:
    """Hash of all that decides a run's result, 32 hex digits. Names and words are not in it."""
    decisive: dict[str, Any] = {
        "row": row.decisive(),
        "seed": seed,
        "threads": threads,
        "data": {"digest": dataset.digest, "normalization": normalization(dataset, row.data.normalization)},
        "parents": [parent.key for parent in parents],
        "numerics": numerics.source_hash(),
    }
    if dataset.size != USUAL_SIZE:
        decisive["data"]["size"] = dataset.size
    if row.start.kind == "imported":
        decisive["imported"] = imported_record(root / row.start.path)["files"]
        del decisive["row"]["start"]["path"]
    text = json.dumps(decisive, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def imported_record(folder: Path) -> dict[str, Any]:
    """The record that `coopnet import` wrote beside its weights."""
    path = folder / "model.json"
    if not path.is_file():
        raise CoopNetError(
            f"{path} is missing: run `coopnet import CHECKPOINT --layout lan2018 --out {folder}` first, "
            "or leave the row that starts from it out (`only` in an overlay)"
        )
    record = files.read_sealed(path, files.LARGEST_RECORD)
    parts = ("files", "architecture", "preprocessing")
    whole = all(isinstance(record.get(part), dict) for part in parts)
    if not whole or not all(isinstance(digest, str) for digest in record["files"].values()):
        raise CoopNetError(f"{path} is not the record of an imported checkpoint; import it again")
    return record


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        CoopNetError: the file is missing, is not YAML, is not a mapping, repeats a key or is beyond all bounds.
    """
    content = yaml_files.read(path)
    if not isinstance(content, dict):
        raise CoopNetError(f"{path} must be a mapping of keys to values, not {type(content).__name__}")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings, key by key, the second winning; one that names its `kind` replaces the other whole."""
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(known, Mapping)
            and value.get("kind", known.get("kind")) == (known.get("kind"))
        ):
            merged[key] = merge(known, value)
        else:
            merged[key] = value
    return merged


SHOWN = 5
"""Mistakes told at once."""


def check(model: type[Checked], content: Any, source: str, data: Mapping[str, Dataset] | None = None) -> Checked:
    """Validate, turning pydantic's errors into one line that names key, value and remedy of each.

    `data` are the datasets that rows may name, those that come with the project by default.
    """
    try:
        return model.model_validate(content, context={"datasets": DATASETS if data is None else data})
    except ValidationError as error:
        raise CoopNetError(f"{source}: {_explain(model, content, error)}") from None


def _explain(model: type[BaseModel], content: Any, error: ValidationError) -> str:
    errors = error.errors(include_url=False)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"]

    def misspelt(one: Any) -> bool:
        beside = [str(other["loc"][-1]) for other in unknown if other["loc"][:-1] == one["loc"][:-1]]
        return one["type"] == "missing" and any(did_you_mean(word, [one["loc"][-1]]) for word in beside)

    # A key that is missing may stand there misspelt; that is told, once and first.
    wrong = unknown + [one for one in errors if one["type"] != "extra_forbidden" and not misspelt(one)]
    told = [_short(_told(model, content, one), 400) for one in wrong[:SHOWN]]
    more = [f"{len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return " — also: ".join(told + more)


def _told(model: type[BaseModel], content: Any, error: Any) -> str:
    """One of pydantic's errors in words."""
    location = [str(part) for part in error["loc"] if part != "[key]"]
    where = _as_written(location, content)
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(model, location[:-1])
            return f"{where} is not a known key{did_you_mean(location[-1], known)} (known: {', '.join(known)})"
        case "missing":
            return f"{where} is missing"
        case "union_tag_not_found":
            return f"{where}.kind is missing (known: {', '.join(_fields_at(model, location))})"
        case "union_tag_invalid":
            tag, known = error["ctx"]["tag"], _fields_at(model, location)
            return (
                f"{where}.kind: {_short(repr(tag))} is not known{did_you_mean(tag, known)} (known: {', '.join(known)})"
            )
        case "value_error":
            message = str(error["ctx"]["error"])
            return f"{where}: {message}" if where else message
        case "dict_type" | "model_type" | "model_attributes_type":
            message = "it must be a mapping of keys to values"
        case "literal_error":
            hint = did_you_mean(str(error["input"]), re.findall("'([^']*)'", error["ctx"]["expected"]))
            message = f"{error['msg']}{hint}"
        case _:
            message = error["msg"]
    value = json.dumps(error["input"], default=str, skipkeys=True)
    return f"{where}: {_short(value)} is not valid: {message}"


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _as_written(location: list[str], content: Any) -> str:
    """A location as the author of the file knows it: without the kinds that pydantic puts into it, on one line."""
    path = []
    for part in location:
        if isinstance(content, Mapping) and part not in content and part == content.get("kind"):
            continue
        path.append(_short(part if part.isprintable() else repr(part)))
        content = content.get(part) if isinstance(content, Mapping) else None
    return ".".join(path)


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the fields that the schema of `model` allows at a location, tagged unions included."""
    schema = _schema(model)
    definitions = schema.get("$defs", {})
    current = schema
    for part in location:
        current = current.get("properties", {}).get(part) or _tagged(current, part) or {}
        if "anyOf" in current:  # a section that may be null
            current = next((one for one in current["anyOf"] if "$ref" in one), current)
        if "$ref" in current:
            current = definitions[current["$ref"].rpartition("/")[2]]
        if "discriminator" in current:
            current = {
                "properties": {
                    tag: definitions[reference.rpartition("/")[2]]
                    for tag, reference in current["discriminator"]["mapping"].items()
                }
            }
    return sorted(current.get("properties", {}))


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _tagged(schema: Mapping[str, Any], part: str) -> dict[str, Any] | None:
    named = schema.get("patternProperties") or {"": schema.get("additionalProperties")}
    extra = next(iter(named.values()))
    return extra if isinstance(extra, dict) and part else None


def did_you_mean(word: str, known: Any) -> str:
    """`; did you mean 'one3'?` for the nearest known name, in whatever case, or nothing."""
    names = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
