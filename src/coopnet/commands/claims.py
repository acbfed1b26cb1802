"""`coopnet claims`: the verdict of every claim on a study."""

import logging
from collections import Counter
from pathlib import Path

from coopnet import files, study
from coopnet.claims import costs, entries, ledger
from coopnet.claims.outcomes import Outcomes
from coopnet.study import Run
from coopnet.workspace import Workspace

log = logging.getLogger(__name__)


def claims(workspace: Workspace, name: str) -> None:
    """Write `results/<study>/claims.json`, from the runs of the study and its table `compute.csv`.

    Raises:
        CoopNetError: `claims.yaml` says what cannot be, or a run is missing, damaged, or of other parameters.
    """
    plan = study.load(workspace.root, name)
    stated = entries.read(workspace.root / "claims.yaml", study.rows(workspace.root), plan.experiments)

    def folder(run: Run) -> Path:
        return workspace.run(plan, run)

    compute = costs.read_compute(workspace.tables(plan) / "compute.csv")
    decided = ledger.decide_all(stated, ledger.Evidence(plan, Outcomes(folder), folder, compute))
    files.write_json(workspace.claims(plan), decided)
    verdicts = Counter(entry["verdict"] for entry in decided)
    log.info("%s", ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "no claims")
