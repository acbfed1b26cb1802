"""What a workflow does at its end, after success and after an error."""

import subprocess
import sys

import dvc_stage
from coopnet.runs import failures
from coopnet.runs.workspace import Workspace
from coopnet.study import Study


def on_success(workspace: Workspace, plan: Study) -> None:
    """Record the results in DVC and print the next commands; under DVC, check the results that it will record."""
    if dvc_stage.UNDER_DVC:
        dvc_stage.refuse_replaced(workspace, plan)
        return
    _record(plan)
    print(
        f"next: `coopnet runs {plan.name}` lists its runs; after the report is made, `coopnet answer {plan.name}` "
        "prints its findings",
        file=sys.stderr,
    )


def on_error(workspace: Workspace, plan: Study) -> None:
    """If runs failed, make the report without them; record in DVC what was made.

    The next start requests the failed runs again, and then the report.
    """
    if failures.unavailable(workspace, plan):
        for command in ("tables", "claims", "report", "timing"):
            if subprocess.run(["coopnet", command, plan.name]).returncode:
                break  # another input is missing, and the command has reported it
    if not dvc_stage.UNDER_DVC:
        _record(plan)


def _record(plan: Study) -> None:
    """Record the results in DVC. A failure to record does not fail the workflow."""
    subprocess.run(["coopnet", "record", plan.name, "--if-possible"])
