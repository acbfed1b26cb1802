"""`coopnet prepare`: write the canonical arrays of a dataset."""

import logging
from dataclasses import replace
from pathlib import Path

from coopnet import study
from coopnet.data import canonical
from coopnet.runs.estimate import cores
from coopnet.runs.workspace import Workspace

log = logging.getLogger(__name__)

DOWNLOADED = ("torchvision", "matlab")
"""Sources whose downloads are kept in `data/raw` of the workspace, unless `--root` names another folder."""


def prepare(
    workspace: Workspace,
    name: str,
    source: str | None,
    root: Path | None,
    out: Path | None,
    processes: int | None = None,
) -> None:
    """Write the canonical arrays and the manifest of a dataset; print the lines that pin it, if it is not pinned yet.

    Raises:
        CoopNetError: the dataset or source is unknown, or the images are not those of the dataset.
    """
    dataset = study.dataset(workspace.root, name)
    source = source or dataset.sources[0]
    if root is None and source in DOWNLOADED:
        root = workspace.raw(name)
    if dataset.own:
        dataset = replace(dataset, path=str(workspace.root / dataset.path))
    folder = out or workspace.prepared(name)
    manifest = canonical.prepare(dataset, source, root, folder, processes or cores())
    counts = manifest["counts"]
    log.info("%s: %d training and %d test images in %s", name, counts["train"], counts["test"], folder)
    if not dataset.digest:
        log.info("to train on them, %s:", canonical.where_to_pin(dataset))
        print(f"    {canonical.pin(manifest)}")
