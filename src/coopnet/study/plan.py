"""The plan of a study: its runs with their parents, phases and keys."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.data.datasets import USUAL_SIZE, Dataset
from coopnet.data.normalization import normalization
from coopnet.files.errors import CoopNetError
from coopnet.study import numerics, phases
from coopnet.study.messages import did_you_mean
from coopnet.study.settings import Experiment

MOST_RUNS = 100_000
"""Most runs that a study may have: many parents over several generations multiply, so more is a typing error."""


@dataclass(frozen=True)
class Run:
    """One experiment with one seed.

    Attributes:
        phase: the phase that makes it.
        key: hash of all that decides the result: resolved row, seed, threads, data, parents' keys, numerics' source.
        dataset: the data for its training and evaluation.
        transfer: the run that builds this run's initial network from the parents; None if nothing has to be built.
        at_transfer: whether the run itself is such a transfer: a network right after its transfer, untrained.
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
        """The runs whose checkpoints it reads: its transfer if it has one, otherwise its parents."""
        return (self.transfer,) if self.transfer else self.parents


@dataclass(frozen=True)
class Study:
    """All experiments × seeds of one parameter set; `data` holds all datasets that its rows may name."""

    name: str
    title: str
    description: str
    device: str
    threads: int
    experiments: dict[str, Experiment]
    runs: dict[tuple[str, int], Run]
    data: dict[str, Dataset]

    def run(self, experiment: str, seed: int) -> Run:
        """The run of this experiment and seed.

        Raises:
            CoopNetError: there is no such run.
        """
        if experiment not in self.experiments:
            hint = did_you_mean(experiment, self.experiments)
            raise CoopNetError(f"study {self.name} has no experiment {experiment!r}{hint}")
        if (experiment, seed) not in self.runs:
            seeds = self.seeds(experiment)
            raise CoopNetError(f"experiment {experiment} of study {self.name} has seeds {seeds}, not {seed}")
        return self.runs[experiment, seed]

    def everything(self) -> Iterator[Run]:
        """All runs and their transfers, each after the runs that it is made from."""
        for run in self.runs.values():
            if run.transfer:
                yield run.transfer
            yield run

    def of_phase(self, phase: str) -> list[Run]:
        """The runs and transfers that a phase makes."""
        return [run for run in self.everything() if run.phase == phase]

    def seeds(self, experiment: str) -> list[int]:
        """The seeds of an experiment: its own, and those that its children need."""
        return sorted(seed for name, seed in self.runs if name == experiment)

    def datasets(self) -> list[str]:
        """The datasets that its runs need."""
        return sorted({row.data.dataset for row in self.experiments.values()})


def plan(
    experiments: Mapping[str, Experiment],
    seeds: list[int],
    threads: int,
    root: Path,
    source: str,
    data: Mapping[str, Dataset],
) -> dict[tuple[str, int], Run]:
    """List all runs, parents before children. `resolve` has already refused experiments that descend from themselves.

    Replicate k of a row with m parents uses replicate m·k + j of its j-th parent (counted from 0), so no two
    replicates share a network. A parent experiment has its own seeds and all those that its children need.
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
                f"replicates of parents that children need; set fewer seeds than {len(seeds)}, or fewer parents"
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
    """The remedy if an imported checkpoint would have to be used twice."""
    if len(child.parents) == 1:
        return f"set experiments.{name}.seeds: {imported.seeds}"
    return "import one checkpoint for each of its parents, each with the seed that it needs"


def run_key(row: Experiment, seed: int, threads: int, parents: tuple[Run, ...], root: Path, dataset: Dataset) -> str:
    """Hash of all that decides a run's result, 32 hex digits. Names and descriptions do not count."""
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
    """The record that `coopnet import` wrote beside the weights."""
    path = folder / "model.json"
    if not path.is_file():
        raise CoopNetError(
            f"{path} is missing: run `coopnet import CHECKPOINT --layout lan2018 --out {folder}` first, "
            "or leave out the row that starts from it (`only` in an overlay)"
        )
    record = files.read_sealed(path, files.LARGEST_RECORD)
    parts = ("files", "architecture", "preprocessing")
    whole = all(isinstance(record.get(part), dict) for part in parts)
    if not whole or not all(isinstance(digest, str) for digest in record["files"].values()):
        raise CoopNetError(f"{path} is not the record of an imported checkpoint; import it again")
    return record
