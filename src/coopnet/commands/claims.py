"""`coopnet claims`: the verdict of every claim on a study."""

import logging
from collections import Counter
from pathlib import Path

from coopnet import files, study
from coopnet.claims import costs, entries, ledger
from coopnet.claims.decisions import Decision
from coopnet.claims.outcomes import Outcomes
from coopnet.runs import failures, receipts, steps
from coopnet.runs.steps import Step
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study

log = logging.getLogger(__name__)


def claims(workspace: Workspace, name: str) -> None:
    """Write `results/<study>/claims.json`, from the runs of the study and its table `compute.csv`.

    Raises:
        CoopNetError: `claims.yaml` says what cannot be, or a run is missing, damaged, or of other parameters.
    """

    def planned() -> Step:
        plan = study.load(workspace.root, name)
        return steps.claims(workspace, plan, failures.lost(workspace, plan).values())

    with receipts.making(workspace, planned):
        decided = _decide(workspace, study.load(workspace.root, name))
        files.write_json(workspace.claims(name), [entry.model_dump() for entry in decided])
    verdicts = Counter(f"{entry.verdict} ({entry.basis})" if entry.basis else entry.verdict for entry in decided)
    log.info("%s", ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "no claims")


def _decide(workspace: Workspace, plan: Study) -> list[Decision]:
    stated = entries.read(workspace.stated, study.rows(workspace.root), plan.experiments)

    def folder(run: Run) -> Path:
        return workspace.run(plan, run)

    lost = {place: one.short for place, one in failures.lost(workspace, plan).items()}
    compute = costs.read_compute(workspace.tables(plan.name) / "compute.csv")
    return ledger.decide_all(stated, ledger.Evidence(plan, Outcomes(folder), folder, compute, lost=lost))
