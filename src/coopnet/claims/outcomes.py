"""Which test images the runs of a study got right, read from what `coopnet evaluate` left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.claims.entries import Reference
from coopnet.evaluation.outcomes import unpack
from coopnet.files.errors import CoopNetError
from coopnet.study import Run


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

    def accuracy(self, run: Run, reference: Reference) -> np.ndarray:
        """Top-1 and top-5 in percent of a network on each test image, [2, N]: 0 or 100, or a mean over branches."""
        models = [reference.model]
        if reference.model == "branch_mean":
            models = [f"branch{b + 1}" for b in range(run.row.model.branches)]
        return 100 * np.mean([self.right(run, f"{reference.stage}/{model}") for model in models], axis=0)

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
