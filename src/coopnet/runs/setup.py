"""The start of a run: its images, its network, and its transfer or teacher if it has one."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coopnet.data.augment import Images, padding
from coopnet.data.normalization import normalization
from coopnet.data.seeding import derive
from coopnet.data.splits import split
from coopnet.files.errors import CoopNetError
from coopnet.networks.merge import combine, merge
from coopnet.networks.network import CooperativeNetwork, build
from coopnet.networks.planned import architecture_of
from coopnet.networks.transfer import TrainedNetwork, expand
from coopnet.study import Run
from coopnet.study.settings import Combine, Continue, Imported, Masked, Merge, Random, Split
from coopnet.training.device import free_memory
from coopnet.training.schedule import Opening

log = logging.getLogger(__name__)

Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Canonical `train` and `test` images [N, S, S, 3] and labels [N]."""

SHARE = 0.5
"""Fraction of a device's free memory that images may use: networks need some, and copying images takes two thirds more.
"""

TRANSFER_BATCH = 500


class Beginning(NamedTuple):
    """A run before its first step: its network, the opening of its log-prior, and its external teacher."""

    initial: TrainedNetwork
    opening: Opening | None = None
    teacher: CooperativeNetwork | None = None


def start(run: Run, ancestors: Sequence[TrainedNetwork], training: Images) -> Beginning:
    """Build the start of a run.

    Args:
        run: the planned run.
        ancestors: the network at transfer if the run has one; otherwise its parents in the order of its row, or the
            imported checkpoint.
        training: its training images; a transfer that uses them is computed on their device.
    """
    row = run.row
    if run.transfer is not None:
        (at_transfer,) = ancestors
        return Beginning(at_transfer, opening(run))
    architecture = architecture_of(row.model, run.dataset)
    seed = derive(run.seed, "weights")
    match row.start:
        case Random():
            (teacher,) = ancestors or (None,)
            return Beginning(TrainedNetwork(build(architecture, seed), {}), None, teacher.network if teacher else None)
        case Continue() | Imported():
            (parent,) = ancestors
            if parent.network.architecture != architecture:
                raise CoopNetError(
                    f"the checkpoint that {run.name} starts from is {parent.network.architecture.to_dict()}, but its "
                    f"row asks for {architecture.to_dict()}; make model and data of the row agree with it"
                )
            return Beginning(parent)
        case Combine() | Merge():
            return Beginning(join(run, ancestors, training, seed))
    (parent,) = ancestors
    return Beginning(grow(run, parent, seed))


def join(run: Run, ancestors: Sequence[TrainedNetwork], training: Images, seed: int) -> TrainedNetwork:
    """Join several one-branch networks into one."""
    how = run.row.start
    if isinstance(how, Combine):
        return combine(ancestors, gate=run.row.model.gate, gate_rows=how.gate_rows, seed=seed)
    assert isinstance(how, Merge)
    device = training.labels.device
    for parent in ancestors:
        parent.network.to(device)
    return merge(
        ancestors,
        trunk=how.trunk,
        reestimate=how.reestimate,
        gate_rows=how.gate_rows,
        seed=seed,
        # "surgery" is an earlier word for a transfer: another word would draw other images.
        images=partial(some_images, training, how.images, derive(run.seed, "surgery")),
        ridge=how.ridge,
    )


def some_images(training: Images, count: int | None, seed: int) -> Iterator[Tensor]:
    """Training images without augmentation, [n, 3, S, S], in batches of about equal size; determined by the seed."""
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:count]
    size = min(TRANSFER_BATCH, max(1, TRANSFER_BATCH * 32 * 32 // len(training.span) ** 2))
    for indices in order.to(training.labels.device).tensor_split(math.ceil(len(order) / size)):
        yield training.plain(indices)


def grow(run: Run, parent: TrainedNetwork, seed: int) -> TrainedNetwork:
    """Add branches to a network."""
    row = run.row
    options = {"donors": row.start.donors, "noise": row.start.noise} if isinstance(row.start, Split) else {}
    return expand(parent, row.model.branches, kind=row.start.kind, seed=seed, **options)  # type: ignore[arg-type]


def opening(run: Run) -> Opening | None:
    """How the log-prior of the new branches opens during training; None if it is constant."""
    start = run.row.start
    if not isinstance(start, Masked) or not start.opens:
        return None
    new = range(run.parents[0].row.model.branches, run.row.model.branches)
    return Opening(tuple(new), start.closed_until, start.open_from)


def load_splits(run: Run, arrays: Arrays, where: torch.device) -> dict[str, Images]:
    """The images of a run on its device."""
    data = run.row.data
    constants = normalization(run.dataset, data.normalization)
    images, labels = arrays["train"]
    chosen = split(labels, validation=data.validation, subset=data.training_subset, seed=data.split_seed)
    parts = {
        "training": (images, labels, chosen.training),
        "validation": (images, labels, chosen.validation),
        "test": (*arrays["test"], None),
    }
    resident = fit_on(where, [len(labels) if which is None else len(which) for _, labels, which in parts.values()], run)
    return {
        name: Images(images, labels, constants["mean"], constants["std"], where, chosen=which, resident=resident)
        for name, (images, labels, which) in parts.items()
        if len(labels if which is None else which)
    }


def fit_on(where: torch.device, counts: Sequence[int], run: Run) -> bool:
    """Whether all images of a run fit on its device; the answer changes the speed and not the result."""
    side = run.dataset.size + 2 * padding(run.dataset.size)
    room = free_memory(where)
    if room is None or sum(counts) * side**2 * 3 <= SHARE * room:
        return True
    log.info("%s: the images stay in memory or on disk, as %s has not enough free memory for them", run.name, where)
    return False
