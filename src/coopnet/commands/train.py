"""`coopnet train`: train one run, or copy it from the store if it was made before."""

from coopnet import study
from coopnet.runs import lifecycle
from coopnet.runs.stop import Stop
from coopnet.runs.workspace import Workspace


def train(
    workspace: Workspace, name: str, experiment: str, seed: int, key: str | None, max_minutes: float | None
) -> int:
    """Make a run and put its files into the workspace; return the exit code.

    After `max_minutes` it is saved and stopped.

    Raises:
        CoopNetError: the run has another key than `key`; or as for `lifecycle.make`.
    """
    plan = study.load(workspace.root, name)
    return lifecycle.make(workspace, plan, plan.run(experiment, seed), key, Stop(max_minutes))
