"""`coopnet evaluate`: compute the metrics of one run from its saved logits and its parents'."""

from pathlib import Path

from coopnet import study
from coopnet.evaluation import evaluate as evaluation
from coopnet.files.errors import CoopNetError
from coopnet.runs import records, steps
from coopnet.runs.workspace import Workspace


def evaluate(workspace: Workspace, name: str, experiment: str, seed: int, *, at_transfer: bool = False) -> Path:
    """Write `votes.csv`, `outcomes.safetensors` and `metrics.json` of a run, or of the network at its transfer.

    Returns:
        Their folder.

    Raises:
        CoopNetError: as `evaluation.evaluate.evaluate`, or the run does not begin with a transfer.
    """
    plan = study.load(workspace.root, name)
    run = plan.run(experiment, seed)
    if at_transfer:
        if run.transfer is None:
            raise CoopNetError(f"{run.name} begins with no transfer; run `coopnet evaluate` without --at-transfer")
        run = run.transfer
    folder = workspace.run(plan, run)
    with records.recording(workspace, lambda: steps.evaluate(workspace, plan, run)):
        evaluation.evaluate(run, folder, [workspace.run(plan, parent) for parent in run.parents])
    return folder
