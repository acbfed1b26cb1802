"""Where everything lies: the paths of the pipeline, relative to the folder with `params.yaml`."""

from dataclasses import dataclass
from pathlib import Path

from coopnet.study import Run, Study

CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "model.json")
RESULTS = ("run.json", "history.csv", "timing.csv", "logits.safetensors")
"""The files of a run; `run.json` and `model.json` are the same record, once beside results, once beside weights."""

PREPARED = ("manifest.json", "test.safetensors", "train.safetensors")
"""The canonical arrays of a dataset, and what they are."""

EVALUATED = ("metrics.json", "scores.json", "votes.csv", "outcomes.safetensors")
"""What is computed from a run's logits and its parents'."""

TABLES = (
    *("study.json", "runs.csv", "accuracy.csv", "step0.csv", "step0_mean.csv", "growth.csv", "growth_mean.csv"),
    *("merges.csv", "diversity.csv", "votes.csv", "votes_best.csv", "distillation.csv", "factors.csv", "history.csv"),
    *("provenance.csv", "compute.csv", "reliability.csv", "published.csv"),
)
"""The tables of a study; `timing.csv` beside them is never the same twice, and nothing else depends on it."""

REPORT = ("index.html", "report.pdf", "appendix.pdf", "report.md", "claims.md", "figures/overview.png")
"""What a report consists of, its other figures apart."""


@dataclass(frozen=True)
class Workspace:
    """A checkout in which a study is made."""

    root: Path

    @property
    def published(self) -> Path:
        """Published figures to compare with."""
        return self.root / "figures.yaml"

    @property
    def stated(self) -> Path:
        """The claims to decide."""
        return self.root / "claims.yaml"

    @property
    def stamps(self) -> Path:
        """What this clone remembers of what was made: receipts, and stamps for Snakemake."""
        return self.root / ".stamps"

    def receipt(self, step: str) -> Path:
        """What a step was made from, by its name."""
        return self.stamps / f"{step}.json"

    def raw(self, dataset: str) -> Path:
        """Where the official download of a dataset is kept."""
        return self.root / "data" / "raw" / dataset

    def prepared(self, dataset: str) -> Path:
        """The canonical arrays of a dataset."""
        return self.root / "data" / "prepared" / dataset

    def results(self, name: str) -> Path:
        """All results of a study."""
        return self.root / "results" / name

    def run(self, study: Study, run: Run) -> Path:
        """History, metrics, logits and record of a run."""
        return self.results(study.name) / run.experiment / f"seed{run.seed}"

    def failure(self, study: Study, run: Run) -> Path:
        """Why a run failed, if it did."""
        return self.run(study, run) / "failure.json"

    def checkpoint(self, study: Study, run: Run) -> Path:
        """Weights, optimiser state and record of a run."""
        dataset = run.row.data.dataset
        return self.root / "checkpoints" / dataset / study.name / run.experiment / f"seed{run.seed}"

    def tables(self, name: str) -> Path:
        """The tables that the report is made from."""
        return self.results(name) / "tables"

    def claims(self, name: str) -> Path:
        """The verdict of every claim."""
        return self.results(name) / "claims.json"

    def report(self, name: str) -> Path:
        """The report of a study."""
        return self.root / "reports" / name


def targets(workspace: Workspace, study: Study, run: Run) -> dict[str, Path]:
    """Where each file of a run's store entry belongs."""
    checkpoint, results = workspace.checkpoint(study, run), workspace.run(study, run)
    entry = {name: checkpoint / name for name in CHECKPOINT}
    return entry | {name: results / name for name in RESULTS}
