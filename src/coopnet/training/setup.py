"""What a run begins with: its network, how its log-prior opens, and its images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from coopnet.data.augment import Images
from coopnet.data.datasets import DATASETS
from coopnet.data.normalization import normalization
from coopnet.data.splits import split
from coopnet.errors import CoopNetError
from coopnet.networks.network import Architecture, build
from coopnet.networks.surgery import Patient, expand
from coopnet.seeding import derive
from coopnet.settings import Continue, Imported, Masked, Random, Split
from coopnet.study import Run
from coopnet.training.schedule import Opening

Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Canonical `train` and `test` images [N, 32, 32, 3] and labels [N]."""


def start(run: Run, ancestors: Sequence[Patient]) -> tuple[Patient, Opening | None]:
    """The network of a run before its first step, and how its log-prior opens."""
    row = run.row
    architecture = Architecture(**row.model.model_dump(), classes=DATASETS[row.data.dataset].classes)
    seed = derive(run.seed, "weights")
    match row.start:
        case Random():
            return Patient(build(architecture, seed), {}), None
        case Continue() | Imported():
            (parent,) = ancestors
            if parent.network.architecture != architecture:
                raise CoopNetError(
                    f"the checkpoint that {run.name} starts from is {parent.network.architecture.to_dict()}, but its "
                    f"row asks for {architecture.to_dict()}; make model and data of the row agree with it"
                )
            return parent, None
    (parent,) = ancestors
    surgery = {"donors": row.start.donors, "noise": row.start.noise} if isinstance(row.start, Split) else {}
    grown = expand(parent, row.model.branches, kind=row.start.kind, seed=seed, **surgery)  # type: ignore[arg-type]
    opening = None
    if isinstance(row.start, Masked):
        new = range(parent.network.architecture.branches, row.model.branches)
        opening = Opening(tuple(new), row.start.closed_until, row.start.open_from)
    return grown, opening


def load_splits(run: Run, arrays: Arrays, where: torch.device) -> dict[str, Images]:
    """The images of a run on its device."""
    data = run.row.data
    constants = normalization(DATASETS[data.dataset], data.normalization)
    images, labels = arrays["train"]
    chosen = split(labels, validation=data.validation, subset=data.training_subset, seed=data.split_seed)
    parts = {
        "training": (images[chosen.training], labels[chosen.training]),
        "validation": (images[chosen.validation], labels[chosen.validation]),
        "test": arrays["test"],
    }
    return {
        name: Images(*part, constants["mean"], constants["std"], where) for name, part in parts.items() if len(part[1])
    }
