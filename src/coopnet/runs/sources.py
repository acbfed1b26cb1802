"""The checkpoints that a run starts from: where each lies, and whether it is the one that the plan names.

PyTorch is not imported here, because it takes seconds, and a missing parent should be heard of at once.
"""

import logging
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.data.normalization import normalization
from coopnet.files.errors import CoopNetError
from coopnet.runs.store import Store
from coopnet.runs.workspace import Workspace
from coopnet.study import Run, Study, imported_record

log = logging.getLogger(__name__)


def checkpoint_of(workspace: Workspace, plan: Study, source: Run, runs: Store) -> tuple[Path, dict[str, Any]]:
    """Folder and record of the checkpoint of a run, from the workspace or else from the store.

    Raises:
        CoopNetError: neither has the run that the plan names.
    """
    for folder in (workspace.run(plan, source), runs.folder(source.key)):
        path = folder / "run.json"
        if files.look(path, "key") != source.key:
            continue
        try:
            record = files.read_sealed(path, files.LARGEST_RECORD)
        except CoopNetError as error:
            log.warning("%s", error)
            continue
        digests = record.get("files")
        known = digests if isinstance(digests, dict) else {}
        weights = [folder / name for name in ("model.safetensors", "optimizer.safetensors")]
        damaged = [p for p in weights if not p.is_file() or files.sha256(p) != known.get(p.name)]
        if not damaged:
            return folder, record
        log.warning("%s is missing or not what its record says", damaged[0])
    verb = "transfer" if source.at_transfer else "train"
    raise CoopNetError(
        f"{source.name} of study {plan.name} is not there, is damaged, or was made with other parameters "
        f"({workspace.run(plan, source) / 'run.json'}); "
        f"run `coopnet {verb} {plan.name} {source.experiment} {source.seed}` first"
    )


def imported_files(workspace: Workspace, run: Run) -> tuple[Path, dict[str, Any]]:
    """Folder and record of an imported checkpoint.

    Raises:
        CoopNetError: it was trained on images that were normalised differently.
    """
    folder = workspace.root / run.row.start.path  # type: ignore[union-attr]
    record = imported_record(folder)
    wanted = normalization(run.dataset, run.row.data.normalization)
    if record["preprocessing"] != wanted:
        said = str(record["preprocessing"])[:200]
        raise CoopNetError(
            f"{folder} was trained with {said}, but {run.experiment} has data.normalization "
            f"{run.row.data.normalization}; set data.normalization: lan2018 for it and its children"
        )
    return folder, record
