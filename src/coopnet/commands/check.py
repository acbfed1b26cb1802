"""`coopnet check`: check before anything runs that the network of every row can be built."""

import logging

from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace

log = logging.getLogger(__name__)


def check(workspace: Workspace, name: str) -> None:
    """Build the network of every row of a study, without allocating its weights.

    Whether a library's model exists, can be split there and accepts the image size is not known until it is built.

    Raises:
        CoopNetError: a network cannot be built; the message names the row and the remedy.
    """
    plan = study.load(workspace.root, name)
    import torch

    from coopnet.networks.network import build
    from coopnet.networks.planned import architecture_of
    from coopnet.networks.tensors import ShapesAlone

    seen = set()
    for experiment, row in plan.experiments.items():
        dataset = plan.data[row.data.dataset]
        known = (row.model.model_dump_json(), dataset.size, dataset.classes)
        if known in seen:
            continue
        seen.add(known)
        try:
            with torch.device("meta"), ShapesAlone():
                build(architecture_of(row.model, dataset), seed=0)
        except CoopNetError as error:
            raise CoopNetError(f"experiments.{experiment}.model: {error}") from error
    log.info("%s: %d networks can be built", name, len(seen))
