"""Which test images the runs of a study got right, read from what `coopnet evaluate` left."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.claims import bootstrap
from coopnet.claims.entries import Reference
from coopnet.evaluation.outcomes import unpack
from coopnet.files.errors import CoopNetError
from coopnet.study import Run

Name = tuple[str, int, str]
"""Experiment, seed, and the network inside the run: `final/branch1`."""


class Outcomes:
    """What is right where, read once per run and kept as bits until it is asked for."""

    def __init__(self, folder: Callable[[Run], Path]):
        """Read nothing yet; `folder` says where the files of a run lie."""
        self.folder = folder
        self._metrics: dict[tuple[str, int], dict[str, Any]] = {}
        self._bits: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    def metrics(self, run: Run) -> dict[str, Any]:
        """`metrics.json` of a run.

        Raises:
            CoopNetError: it is missing, or that of a run with other parameters.
        """
        place = run.experiment, run.seed
        if place not in self._metrics:
            path = self.folder(run) / "metrics.json"
            content = files.read_json(path)
            if not isinstance(content, dict) or content.get("key") != run.key or "files" not in content:
                raise CoopNetError(
                    f"{path} is not that of the run the plan has now; run `coopnet evaluate` for {run.name} again"
                )
            self._metrics[place] = content
        return self._metrics[place]

    def images(self, run: Run) -> int:
        """How many test images it was evaluated on."""
        return int(self.metrics(run)["final"]["test"]["images"])

    def names(self, run: Run, reference: Reference) -> list[Name]:
        """The networks whose accuracies a reference averages: one, or for `branch_mean` every branch."""
        models = [reference.model]
        if reference.model == "branch_mean":
            models = [f"branch{b + 1}" for b in range(run.row.model.branches)]
        return [(run.experiment, run.seed, f"{reference.stage}/{model}") for model in models]

    def right(self, run: Run, network: str) -> np.ndarray:
        """Whether each test image is right in top-1 and in top-5, [2, N].

        Raises:
            CoopNetError: the file is missing, damaged, or not the one that was evaluated.
        """
        place = run.experiment, run.seed
        if place not in self._bits:
            path = self.folder(run) / "outcomes.safetensors"
            if files.sha256(path) != self.metrics(run)["files"].get(path.name):
                raise CoopNetError(f"{path} is not the file that was evaluated; run `coopnet evaluate` for it again")
            self._bits[place] = files.read_tensors(path)
        try:
            return unpack(self._bits[place][network], self.images(run))
        except (KeyError, ValueError) as error:
            raise CoopNetError(
                f"{self.folder(run)} holds no usable outcomes of {network} ({error}); run `coopnet evaluate` again"
            ) from error


class Accuracies:
    """Top-1 and top-5 in percent of networks on the test images, and on resampled ones."""

    def __init__(self, networks: Mapping[Name, Run], outcomes: Outcomes, resamples: int):
        """Resample the images of all networks at once: they see the same resamples, whichever claims they serve."""
        self.resamples = resamples
        self._values: dict[Name, np.ndarray] = {}
        self._draws: dict[Name, np.ndarray] = {}
        groups: dict[int, list[Name]] = {}
        for name, run in networks.items():
            groups.setdefault(outcomes.images(run), []).append(name)
        for names in groups.values():
            right = np.stack([outcomes.right(networks[name], name[2]) for name in names])  # [K, 2, N]
            draws = bootstrap.accuracies(right.reshape(-1, right.shape[-1]), resamples)
            self._values |= dict(zip(names, 100 * right.mean(axis=2), strict=True))
            self._draws |= dict(zip(names, np.moveaxis(draws.reshape(resamples, len(names), -1), 0, -1), strict=True))

    def value(self, names: Sequence[Name], score: int) -> float:
        """Mean accuracy of some networks."""
        return float(np.mean([self._values[name][score] for name in names]))

    def draws(self, names: Sequence[Name], score: int) -> np.ndarray:
        """The same on each resample of the images, [R]."""
        mean: np.ndarray = np.mean([self._draws[name][score] for name in names], axis=0)
        return mean
