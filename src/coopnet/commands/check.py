"""`coopnet check`: check before anything runs that every row's network can be built, and what is read last."""

import logging

from coopnet import study
from coopnet.claims import entries
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.runs.workspace import Workspace
from coopnet.study import Study

log = logging.getLogger(__name__)


def check(workspace: Workspace, name: str) -> None:
    """Build the network of every row of a study, without allocating its weights; then read claims and figures.

    Whether a library's model exists, can be split there, accepts the image size and can be merged is not known until
    it is built.

    Raises:
        CoopNetError: a network cannot be built or merged, or `claims.yaml` or `figures.yaml` is invalid; the message
            names the row or the entry, and the remedy.
    """
    plan = study.load(workspace.root, name)
    import torch

    from coopnet.networks.merge import permutations
    from coopnet.networks.network import build
    from coopnet.networks.planned import architecture_of
    from coopnet.networks.tensors import ShapesAlone

    seen = set()
    for experiment, row in plan.experiments.items():
        dataset = plan.data[row.data.dataset]
        trunk = getattr(row.start, "trunk", None)
        known = (row.model.model_dump_json(), dataset.size, dataset.classes, trunk)
        if known in seen:
            continue
        seen.add(known)
        try:
            with torch.device("meta"), ShapesAlone():
                architecture = architecture_of(row.model, dataset)
                network = build(architecture, seed=0)
                if trunk == "matched":
                    permutations(architecture)
                elif trunk == "refit":
                    architecture.readers(network.branches[0])
        except (CoopNetError, ValueError) as error:
            raise CoopNetError(f"experiments.{experiment}: {error}") from error
    log.info("%s: the networks of all %d experiments can be built", name, len(plan.experiments))
    _check_words(workspace, plan)


def _check_words(workspace: Workspace, plan: Study) -> None:
    """Read the claims and the published figures, which a study needs only at its end."""
    rows = study.rows(workspace.root)
    published.read(workspace.published, rows)
    stated = entries.read(workspace.claims_file, rows, plan.experiments)
    needed = [{one.experiment for part in claim.parts for one in (part.of, *part.than)} for claim in stated]
    about = sum(names <= set(plan.experiments) for names in needed)
    log.info("%s: it has the networks of %d of the %d claims of claims.yaml", plan.name, about, len(stated))
