"""`coopnet transfer`: build the network that a run of a study starts from. `grow_and_merge` needs no study."""

from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.runs import lifecycle
from coopnet.runs.stop import Stop
from coopnet.runs.workspace import Workspace
from coopnet.study import Run
from coopnet.study.settings import TRANSFERS


def transfer(workspace: Workspace, name: str, experiment: str, seed: int, key: str | None) -> Run:
    """Build the initial network of a run from its parents' checkpoints, and put its files into the workspace.

    Returns:
        The transfer with which the run begins, or the run itself if it is not trained afterwards.

    Raises:
        CoopNetError: the run does not start with a transfer; or as `lifecycle.make`.
    """
    plan = study.load(workspace.root, name)
    run = plan.run(experiment, seed)
    if run.transfer is None and run.row.start.kind not in TRANSFERS:
        raise CoopNetError(
            f"{run.name} has start {run.row.start.kind}, which transfers nothing; run `coopnet train` for it"
        )
    made = run.transfer or run
    lifecycle.make(workspace, plan, made, key, Stop(None))
    return made
