"""Which test images the runs of a study got right, read from what `coopnet tables` gathered."""

from pathlib import Path
from typing import Any

import numpy as np

from coopnet import files
from coopnet.claims.entries import Reference
from coopnet.evaluation.outcomes import unpack
from coopnet.files.errors import CoopNetError
from coopnet.study import Run


class Outcomes:
    """What is right where, as it was gathered from all runs, unpacked when it is asked for."""

    def __init__(self, results: Path):
        """Read `metrics.json` and `outcomes.safetensors` of a study.

        Raises:
            CoopNetError: one is missing or damaged.
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
            CoopNetError: they are missing, or those of a run with other parameters.
        """
        content = self._metrics.get(run.name)
        if not isinstance(content, dict) or content.get("key") != run.key or "final" not in content:
            raise CoopNetError(
                f"{self.results / 'metrics.json'} has no metrics of {run.name} as the plan has it now; make the run, "
                "then run `coopnet tables` again"
            )
        return content

    def validation_curve(self, run: Run, score: str) -> np.ndarray:
        """Accuracy of the ensemble on validation images after each epoch, percent, [E].

        Raises:
            CoopNetError: it was not measured after every epoch.
        """
        try:
            return np.array(self.metrics(run)["validation_curve"][score], dtype=float)
        except (KeyError, TypeError, ValueError) as error:
            raise CoopNetError(f"{run.name} has no validation accuracy of every epoch ({error!r})") from error

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
            CoopNetError: there is nothing of that network, or it is damaged.
        """
        try:
            return unpack(self._bits[f"{run.name}/{network}"], self.images(run))
        except (KeyError, ValueError) as error:
            raise CoopNetError(
                f"{self.results / 'outcomes.safetensors'} holds no usable outcomes of {run.name} {network} ({error}); "
                "run `coopnet tables` again"
            ) from error
