"""`coopnet claims`: decide every claim about a study."""

import logging
from collections import Counter

from coopnet import files, study
from coopnet.claims import costs, entries, ledger
from coopnet.claims.decisions import Decision
from coopnet.claims.outcomes import Outcomes
from coopnet.runs import failures, records, steps
from coopnet.runs.workspace import Workspace
from coopnet.study import Study

log = logging.getLogger(__name__)


def claims(workspace: Workspace, name: str) -> None:
    """Write `results/<study>/claims.json`, from the runs of the study and its table `compute.csv`.

    Raises:
        CoopNetError: `claims.yaml` is invalid, or a run is missing, damaged, or was made with other parameters.
    """
    with records.recording(workspace, lambda: steps.claims(workspace, name)):
        decided = _decide(workspace, study.load(workspace.root, name))
        files.write_json(workspace.claims(name), [entry.model_dump() for entry in decided])
    verdicts = Counter(f"{entry.verdict} ({entry.basis})" if entry.basis else entry.verdict for entry in decided)
    log.info("%s", ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "no claims")


def _decide(workspace: Workspace, plan: Study) -> list[Decision]:
    claimed = entries.read(workspace.claims_file, study.rows(workspace.root), plan.experiments)
    unavailable = {place: one.short for place, one in failures.unavailable(workspace, plan).items()}
    compute = costs.read_compute(workspace.tables(plan.name) / "compute.csv", plan.name)
    outcomes = Outcomes(workspace.results(plan.name))
    return ledger.decide_all(claimed, ledger.Evidence(plan, outcomes, compute, unavailable))
