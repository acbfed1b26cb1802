"""The start of a workflow: the study is read and checked, and the stamps are updated, before Snakemake plans."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.filesize import decimal

import dvc_stage
import stamps
from coopnet import study
from coopnet.claims import entries
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.report.wording import count, flops
from coopnet.runs.estimate import duration, estimate
from coopnet.runs.workspace import Workspace
from coopnet.study import Study


def read_study(root: Path, config: Mapping[str, Any]) -> Study:
    """Read the study named by `--config study=NAME`; exit with an error if it, or a file needed later, is invalid.

    Args:
        root: the folder with `params.yaml`.
        config: Snakemake's configuration.
    """
    unknown = sorted(set(config) - {"study"})
    if unknown:
        sys.exit(
            f"--config {unknown[0]} is not known; the only option is study=NAME. Everything else is set in params.yaml "
            "or studies/NAME.yaml, which the commands of the workflow read themselves."
        )
    name = config.get("study", study.FULL)
    if name in ("", None):
        sys.exit("error: --config study= names no study (an empty shell variable?); leave it out for the full study")
    try:
        plan = study.load(root, str(name))
        # These files are needed last, but a mistake in them should be reported before anything runs.
        rows = study.rows(root)
        entries.read(root / "claims.yaml", rows, plan.experiments)
        published.read(Workspace(root).published, rows)
        return plan
    except CoopNetError as error:
        sys.exit(f"error: {error}")


def find_due(workspace: Workspace, plan: Study) -> stamps.Due:
    """Update the stamps, print how much has to be made, and return it; exit with an error if the workflow cannot start.

    This is for Snakemake's main process. The jobs of a cluster read the workflow too, and check nothing again.
    """
    wrapped = any(row.model.wrapped for row in plan.experiments.values())
    if wrapped and subprocess.run(["coopnet", "check", plan.name]).returncode:  # imports the models' libraries
        sys.exit(1)
    if dvc_stage.UNDER_DVC:
        dvc_stage.refuse_edited(workspace, plan)
    remove_stale_locks(Path(".snakemake"))
    try:
        due = stamps.refresh(workspace, plan)
    except CoopNetError as error:
        sys.exit(f"error: {error}")
    if any(due):
        networks = sum(1 for _ in plan.everything())
        print(
            f"{plan.name}: {len(due.runs)} of {networks} networks to make, {len(due.evaluations)} more to evaluate",
            file=sys.stderr,
        )
        if due.runs and not dvc_stage.UNDER_DVC and (line := cost_line(workspace, plan)):
            print(line, file=sys.stderr)
    if dvc_stage.UNDER_DVC:
        dvc_stage.make_folders(workspace, plan)
    return due


def cost_line(workspace: Workspace, plan: Study) -> str:
    """The estimated cost of a study on one line; empty if no network is left to make."""
    found = estimate(workspace, plan)
    total = found.total
    if not total.left:
        return ""
    others = f"{count(total.uncounted, 'network')} of other libraries, whose operations are not counted"
    if not total.training_flops:
        return f"{plan.name}: {others}." if total.uncounted else ""
    here = f"{duration(total.seconds)} on this machine, " if found.speeds else ""
    return (
        f"{plan.name}: {flops(total.training_flops)} FLOPs of training; {here}{duration(total.h100)} on one H100 "
        f"(estimated), run after run; {decimal(total.disk)} of files{f', without {others}' * bool(total.uncounted)}. "
        f"`coopnet plan {plan.name}` has it by phase."
    )


def remove_stale_locks(folder: Path) -> int:
    """Remove locks that a killed Snakemake left, unless another Snakemake is running here.

    Every Snakemake holds a shared lock that ends with its process. A process that gets the lock exclusively
    for a moment knows that no other one is running, so all files in `locks/` are stale.

    Args:
        folder: Snakemake's own folder, `.snakemake`.

    Returns:
        The descriptor of the lock, which stays open as long as the process lives.
    """
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / "alive.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another Snakemake is running, or the file system has no locks
        pass
    else:
        for left in (folder / "locks").glob("*"):
            left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle
