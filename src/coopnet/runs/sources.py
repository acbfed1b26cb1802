"""The checkpoints that a run starts from: their folders, and whether they match the plan.

PyTorch is not imported here: importing it takes seconds, and a missing parent should be reported at once.
"""

import logging
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.data.normalization import normalization
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.runs import records
from coopnet.runs.records import RECORD
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, imported_record

log = logging.getLogger(__name__)


def checkpoint_of(workspace: Workspace, plan: Study, source: Run, runs: Store) -> tuple[Path, dict[str, Any]]:
    """Folder and record of a run's checkpoint, from the workspace or else from the store.

    Raises:
        CoopNetError: neither has the planned run.
    """
    problems: list[str] = []
    for folder in (workspace.run(plan, source), runs.folder(source.key)):
        paths = {name: folder / name for name in (RECORD, "model.safetensors", "optimizer.safetensors")}
        problem = records.check_files(paths, source.key, source.name, Digests())
        if problem is None:
            for text in problems:
                log.warning("%s; the copy in the run store is used", text)
            return folder, files.read_sealed(paths[RECORD], files.LARGEST_RECORD)
        if problem.kind != "stale" and paths[RECORD].exists():
            problems.append(problem.text)
    for text in problems:
        log.warning("%s", text)
    verb = "transfer" if source.at_transfer else "train"
    raise CoopNetError(
        f"{source.name} of study {plan.name} is missing, is damaged, or was made with other parameters "
        f"({workspace.run(plan, source) / 'run.json'}); "
        f"run `coopnet {verb} {plan.name} {source.experiment} {source.seed}` first"
    )


def imported_files(workspace: Workspace, run: Run) -> tuple[Path, dict[str, Any]]:
    """Folder and record of an imported checkpoint.

    Raises:
        CoopNetError: it was trained with a different normalisation of the images.
    """
    folder = workspace.root / run.row.start.path  # type: ignore[union-attr]
    record = imported_record(folder)
    wanted = normalization(run.dataset, run.row.data.normalization)
    if record["preprocessing"] != wanted:
        trained_with = str(record["preprocessing"])[:200]
        raise CoopNetError(
            f"{folder} was trained with {trained_with}, but {run.experiment} has data.normalization "
            f"{run.row.data.normalization}; set data.normalization: lan2018 for it and its children"
        )
    return folder, record
