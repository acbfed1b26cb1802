"""The paths of the pipeline, relative to the folder with `params.yaml`."""

from dataclasses import dataclass
from pathlib import Path

from coopnet.study import Run, Study

MADE = (
    *("model.safetensors", "optimizer.safetensors", "logits.safetensors"),
    *("history.csv", "timing.csv", "run.json"),
)
"""The files of a run; its record `run.json` has the digests of the others except `timing.csv`."""

PREPARED = ("manifest.json", "test.safetensors", "train.safetensors")
"""The canonical arrays of a dataset, and their manifest."""

EVALUATED = ("metrics.json", "votes.csv", "outcomes.safetensors")
"""The files that evaluation computes from the logits of a run and its parents."""

TABLES = (
    *("study.json", "runs.csv", "accuracy.csv", "transfer.csv", "transfer_mean.csv", "growth.csv", "growth_mean.csv"),
    *("merges.csv", "diversity.csv", "votes.csv", "votes_best.csv", "distillation.csv", "factors.csv", "history.csv"),
    *("provenance.csv", "compute.csv", "reliability.csv", "published.csv"),
)
"""The tables of a study. `timing.csv` beside them differs each time; only the page of timings depends on it."""

GATHERED = ("records.json", "metrics.json", "scores.json", "outcomes.safetensors")
"""The files gathered from all runs: records, metrics, accuracies, and which test images each network classifies
correctly. Claims and report are made from these files and the tables."""

LATENCY = "latency.csv"
"""Optional file beside the tables: the latency of each network on a machine."""

REPORT = ("index.html", "report.pdf", "appendix.pdf", "report.md", "claims.md", "figures/overview.png")
"""The files of a report, except its other figures."""


@dataclass(frozen=True)
class Workspace:
    """The folder with `params.yaml`, in which a study is made."""

    root: Path

    @property
    def published(self) -> Path:
        """Published figures for comparison."""
        return self.root / "figures.yaml"

    @property
    def claims_file(self) -> Path:
        """The claims to be decided."""
        return self.root / "claims.yaml"

    @property
    def stamps(self) -> Path:
        """Local state of this clone: stamps for Snakemake, and digests of files by their dates."""
        return self.root / ".stamps"

    def step_record(self, name: str, step: str) -> Path:
        """The record of a step of a study: `tables`, `claims`, `report` or `timing`."""
        folder = self.results(name) if step in ("tables", "claims") else self.report(name)
        return folder / f"{step}.record.json"

    def raw(self, dataset: str) -> Path:
        """The folder of a dataset's official download."""
        return self.root / "data" / "raw" / dataset

    def prepared(self, dataset: str) -> Path:
        """The canonical arrays of a dataset."""
        return self.root / "data" / "prepared" / dataset

    def results(self, name: str) -> Path:
        """All results of a study."""
        return self.root / "results" / name

    def checkpoints(self, name: str, phase: str) -> Path:
        """All runs that a phase of a study makes."""
        return self.root / "checkpoints" / name / phase

    def phase_keys(self, name: str, phase: str) -> Path:
        """The keys of a phase's runs; DVC compares this file instead of `params.yaml` and the source."""
        return self.checkpoints(name, "plan") / f"{phase}.json"

    def run(self, study: Study, run: Run) -> Path:
        """Weights, optimiser state, history, logits, metrics and record of a run."""
        return self.checkpoints(study.name, run.phase) / run.experiment / f"seed{run.seed}"

    def failure(self, study: Study, run: Run) -> Path:
        """The failure record of a run."""
        return self.run(study, run) / "failure.json"

    def tables(self, name: str) -> Path:
        """The tables from which the report is made."""
        return self.results(name) / "tables"

    def claims(self, name: str) -> Path:
        """The verdict of every claim."""
        return self.results(name) / "claims.json"

    def report(self, name: str) -> Path:
        """The report of a study."""
        return self.root / "reports" / name


def targets(workspace: Workspace, study: Study, run: Run) -> dict[str, Path]:
    """The workspace path of each file of a run's store entry."""
    return {name: workspace.run(study, run) / name for name in MADE}
