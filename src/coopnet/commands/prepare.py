"""`coopnet prepare`: canonical arrays of a dataset."""

import logging
from pathlib import Path

from coopnet.data import canonical
from coopnet.data.datasets import DATASETS
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace
from coopnet.study import did_you_mean

log = logging.getLogger(__name__)


def prepare(workspace: Workspace, name: str, source: str | None, root: Path | None, out: Path | None) -> None:
    """Write the canonical arrays and the manifest of a dataset.

    Raises:
        CoopNetError: an unknown dataset or source, or images that are not those of the dataset.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise CoopNetError(f"there is no dataset {name!r}{did_you_mean(name, DATASETS)} (known: {known})")
    dataset = DATASETS[name]
    source = source or dataset.default_source
    if root is None and source == "torchvision":
        root = workspace.raw(name)
    folder = out or workspace.prepared(name)
    manifest = canonical.prepare(dataset, source, root, folder)
    counts = manifest["counts"]
    log.info("%s: %d training and %d test images in %s", name, counts["train"], counts["test"], folder)
