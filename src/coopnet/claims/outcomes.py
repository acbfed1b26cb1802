"""Which test images the runs of a study classify correctly, read from the files of `coopnet tables`."""

from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.claims.entries import Reference
from coopnet.evaluation.outcomes import unpack
from coopnet.files.errors import CoopNetError
from coopnet.study import Run


class Outcomes:
    """Which test images each network classifies correctly; the packed bits are unpacked on access."""

    def __init__(self, results: Path):
        """Read `metrics.json` and `outcomes.safetensors` of a study.

        Raises:
            CoopNetError: a file is missing or damaged.
        """
        self.results = results
        path = results / "metrics.json"
        content = files.read_json(path)
        if not isinstance(content, dict):
            raise CoopNetError(f"{path} is damaged (no mapping of runs); run `coopnet tables` again")
        self._metrics: dict[str, Any] = content
        self._bits = files.read_tensors(results / "outcomes.safetensors")

    def metrics(self, run: Run) -> dict[str, Any]:
        """Metrics of a run.

        Raises:
            CoopNetError: the metrics are missing or belong to a run with other parameters.
        """
        content = self._metrics.get(run.name)
        if not isinstance(content, dict) or content.get("key") != run.key or "final" not in content:
            raise CoopNetError(
                f"{self.results / 'metrics.json'} has no metrics of {run.name} with its present parameters; make the "
                "run, then run `coopnet tables` again"
            )
        return content

    def validation_curve(self, run: Run, score: str) -> np.ndarray:
        """Accuracy of the ensemble on validation images after each epoch, percent, [E]; [0] of an untrained run.

        Raises:
            CoopNetError: the accuracy was not measured after every epoch.
        """
        if not run.row.training.epochs:
            return np.array([])
        try:
            return np.array(self.metrics(run)["validation_curve"][score], dtype=float)
        except (KeyError, TypeError, ValueError) as error:
            raise CoopNetError(f"{run.name} has no validation accuracy of every epoch ({error!r})") from error

    def images(self, run: Run) -> int:
        """Number of test images that the run was evaluated on."""
        return int(self.metrics(run)["final"]["test"]["images"])

    def accuracy(self, run: Run, reference: Reference) -> np.ndarray:
        """Top-1 and top-5 of a network on each test image, percent, [2, N]: 0 or 100, or a mean over branches."""
        models = [reference.model]
        if reference.model == "branch_mean":
            models = [f"branch{b + 1}" for b in range(run.row.model.branches)]
        return 100 * np.mean([self.right(run, f"{reference.stage}/{model}") for model in models], axis=0)

    def right(self, run: Run, network: str) -> np.ndarray:
        """Whether each test image is right in top-1 and in top-5, [2, N].

        Raises:
            CoopNetError: the outcomes of that network are missing or damaged.
        """
        try:
            return unpack(self._bits[f"{run.name}/{network}"], self.images(run))
        except (KeyError, ValueError) as error:
            raise CoopNetError(
                f"{self.results / 'outcomes.safetensors'} holds no usable outcomes of {run.name} {network} ({error}); "
                "run `coopnet tables` again"
            ) from error
