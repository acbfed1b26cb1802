"""The stage for which DVC called Snakemake. DVC records its outputs, so they must be those of the planned parameters.

Each guard ends the process with an error, so that DVC does not record the stage.
"""

import os
import sys
from typing import NoReturn

import stamps
from coopnet.runs import phase_keys
from coopnet.runs.workspace import Workspace
from coopnet.study import Study
from coopnet.study.phases import TRAINING

ADDRESS = os.environ.get("DVC_STAGE", "")
"""DVC's name of the stage, e.g. `studies/dvc.yaml:tables@mini`; empty if DVC did not call Snakemake."""

UNDER_DVC = bool(ADDRESS)


def refuse_edited(workspace: Workspace, plan: Study) -> None:
    """Exit if these parameters are not those for which DVC started the stage.

    The stage depends on the plan's files. They are written again here, so that the next `dvc repro` runs the edited
    phases.
    """
    if not phase_keys.are_written(workspace, plan):
        phase_keys.write(workspace, plan)
        _refuse(plan, "parameters were edited after DVC had planned it")


def refuse_replaced(workspace: Workspace, plan: Study) -> None:
    """Exit if the stage's results do not match the plan: DVC would record them for these parameters."""
    phase = ADDRESS.split(":")[-1].split("@")[0]
    if not phase_keys.are_written(workspace, plan):
        _refuse(plan, "parameters were edited, and planned anew, while its results were made")
    if problem := stamps.first_problem(workspace, plan, phase):
        _refuse(plan, f"its results were replaced while they were made ({problem.text})")


def make_folders(workspace: Workspace, plan: Study) -> None:
    """Make the folder of each phase: DVC requires it, even if the phase makes nothing in this study."""
    for phase in TRAINING:
        workspace.checkpoints(plan.name, phase).mkdir(parents=True, exist_ok=True)


def _refuse(plan: Study, reason: str) -> NoReturn:
    sys.exit(
        f"error: {plan.name}: {reason}, so DVC does not record this stage. Trained runs are kept in the run store; "
        "run the same command again"
    )
