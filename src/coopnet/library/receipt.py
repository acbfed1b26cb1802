"""Receipts of parameter transfers: the origin of each tensor, what is exact, and what changed on given images."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from coopnet.files.errors import CoopNetError
from coopnet.networks.network import CooperativeNetwork
from coopnet.networks.transfer import Origin

EXACT = 1e-6
"""Exact means: float32, eval mode, max|Δ logits| ≤ 1e-6 · max|logit|."""

BATCH = 500
"""Images per batch."""

Batches = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class Measured:
    """A comparison of the new network with its reference, in eval mode, on images.

    Attributes:
        images: number of images.
        largest_logit: max|logit| of the reference.
        largest_difference: max|Δ logits| between the ensemble and the reference.
        changed_predictions: images whose predicted class differs.
    """

    images: int
    largest_logit: float
    largest_difference: float
    changed_predictions: int

    @property
    def exact(self) -> bool:
        """Whether the difference is rounding: max|Δ logits| ≤ 1e-6 · max|logit|."""
        return self.largest_difference <= EXACT * self.largest_logit


@dataclass(frozen=True)
class Receipt:
    """The description of a transfer.

    Attributes:
        how: the transfer and its options, in a few words.
        before: branches of each parent.
        after: branches of the new network.
        exact: whether the transfer is exact by construction.
        statement: what is exact and what is not.
        reference: what the new network is compared with.
        tensors: the origin of each tensor of the new network.
        optimizer: what happened to the optimiser's state.
        measured: the comparison on the given images; None without images.
    """

    how: str
    before: tuple[int, ...]
    after: int
    exact: bool
    statement: str
    reference: str
    tensors: Mapping[str, str]
    optimizer: str
    measured: Measured | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        facts = asdict(self) | {"before": list(self.before), "tensors": dict(self.tensors)}
        if self.measured is not None:
            facts["measured"] |= {"exact": self.measured.exact}
        return facts

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each fact except the tensors, for a table."""
        before = ", ".join(map(str, self.before))
        facts = [
            ("transfer", self.how),
            ("branches", f"{before} → {self.after}"),
            ("exact", f"{'yes' if self.exact else 'no'}: {self.statement}"),
            ("compared with", self.reference),
        ]
        if self.measured is None:
            facts.append(("images", "none were passed, so nothing was measured"))
        else:
            one = self.measured
            facts += [
                ("images", f"{one.images:,}"),
                ("exact on these images", "yes, up to rounding" if one.exact else "no"),
                ("largest logit difference", f"{one.largest_difference:.2e}, largest logit {one.largest_logit:.3g}"),
                ("changed predictions", f"{one.changed_predictions:,} of {one.images:,}"),
            ]
        return [*facts, ("optimiser", self.optimizer)]

    def __str__(self) -> str:
        """The table as plain text."""
        width = max(len(label) for label, _ in self.rows())
        return "\n".join(f"{label:<{width}}  {value}" for label, value in self.rows())


def batches_of(images: Tensor | Iterable[Any] | None) -> Batches | None:
    """A function that returns the same batches of images each time.

    Args:
        images: normalised, [N, C, H, W]; or an iterable of such batches, with or without labels, e.g. a `DataLoader`.

    Raises:
        CoopNetError: they are none of these.
    """
    if images is None:
        return None
    if isinstance(images, Tensor):
        whole = _of_batch(images)
        # Batches of about equal size: a last one of a single image would have no variance.
        return lambda: whole.tensor_split(max(1, math.ceil(len(whole) / BATCH)))
    if (isinstance(images, Dataset) and not isinstance(images, IterableDataset)) or not isinstance(images, Iterable):
        raise CoopNetError(
            f"images is a {type(images).__name__}; pass a tensor [N, C, H, W], batches of them, or a DataLoader"
        )
    many = list(images) if isinstance(images, Iterator) else images
    return lambda: map(_of_batch, many)


def _of_batch(batch: Any) -> Tensor:
    """The images of a batch, with or without labels."""
    first = batch[0] if isinstance(batch, Sequence) and batch else batch
    if not isinstance(first, Tensor):
        raise CoopNetError(
            f"a batch of images is a {type(batch).__name__}; it has to be a tensor [N, C, H, W], or begin with one"
        )
    if first.dtype in (torch.uint8, torch.float64):
        raise CoopNetError(f"images are {first.dtype}; normalise them as for training, and pass them as torch.float32")
    return first


@torch.no_grad()
def measure(
    network: CooperativeNetwork, parents: Sequence[CooperativeNetwork], images: Batches | None
) -> Measured | None:
    """Compare the ensemble of a network with the mean of its parents' ensembles.

    Raises:
        CoopNetError: there is no image, or a logit is not finite.
    """
    if images is None:
        return None
    everyone: list[nn.Module] = [network, *parents]
    modes = [(module, module.training) for one in everyone for module in one.modules()]
    count, largest, difference, changed = 0, 0.0, 0.0, 0
    try:
        for one in everyone:
            one.eval()
        device = next(network.parameters()).device
        for batch in images():
            if not len(batch):
                continue
            batch = batch.to(device)
            old = torch.stack([parent(batch).ensemble for parent in parents]).mean(dim=0)
            new = network(batch).ensemble
            if not (old.isfinite().all() and new.isfinite().all()):
                raise CoopNetError(
                    "the networks give logits that are NaN or infinite on these images; look for the cause"
                )
            count += len(batch)
            largest = max(largest, old.abs().max().item())
            difference = max(difference, (new - old).abs().max().item())
            changed += int((new.argmax(1) != old.argmax(1)).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    if not count:
        raise CoopNetError("images holds no image; pass some, or leave it out")
    return Measured(count, largest, difference, changed)


def listed(numbers: Sequence[int]) -> str:
    """Indices from 0 as numbers from 1: `1, 2, 3`."""
    return ", ".join(str(number + 1) for number in numbers)


def tensor_origins(network: nn.Module, plan: Mapping[str, Origin]) -> dict[str, str]:
    """The origin of each tensor of a network, in words.

    Args:
        network: the new network.
        plan: the origin of each inherited tensor.
    """
    described = {}
    for name in network.state_dict():
        origin = plan.get(name)
        if origin is None:
            described[name] = "fresh"
        elif origin.rows is None:
            described[name] = f"copied from {origin.name}"
        else:
            kept = [(row, source) for row, source in enumerate(origin.rows) if source is not None]
            new = [row for row, source in enumerate(origin.rows) if source is None]
            rows, sources = listed([row for row, _ in kept]), listed([source for _, source in kept])
            described[name] = f"rows {rows} copied from rows {sources} of {origin.name}"
            if new:
                described[name] += f"; rows {listed(new)} fresh"
    return described
