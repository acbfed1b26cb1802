"""`coopnet train`: train one run, or copy it from the store if it was made before."""

from coopnet import study
from coopnet.runs import lifecycle
from coopnet.runs.stop import Stop
from coopnet.runs.workspace import Workspace


def train(
    workspace: Workspace, name: str, experiment: str, seed: int, key: str | None, max_minutes: float | None
) -> int:
    """Make a run and put its files into the workspace; return the exit code.

    Args:
        workspace: has the study, and receives the files.
        name: name of the study.
        experiment: experiment of the run.
        seed: seed of the run.
        key: the key that the caller expects; an error if the run has another one.
        max_minutes: save and stop after so many minutes.

    Raises:
        CoopNetError: as `lifecycle.make`.
    """
    plan = study.load(workspace.root, name)
    return lifecycle.make(workspace, plan, plan.run(experiment, seed), key, Stop(max_minutes))
