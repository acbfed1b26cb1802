"""One training step and one pass over a split, with meters on the device."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from coopnet.data.augment import Draws, Images
from coopnet.networks.loss import Loss, Teaching, loss, soft_targets
from coopnet.networks.network import CooperativeNetwork, Outputs
from coopnet.training.graph import GraphedStep
from coopnet.training.optimizer import Optimizer

EVALUATION_BATCH = 1000


def evaluation_batch(split: Images) -> int:
    """Images per evaluation batch: 1000 of 32×32 pixels; of larger images as many as need the same memory."""
    side = len(split.span)
    return min(EVALUATION_BATCH, max(1, EVALUATION_BATCH * 32 * 32 // side**2))


def make_deterministic(threads: int) -> None:
    """Configure PyTorch to compute the same bits every time.

    Args:
        threads: of the CPU; one thread and two give different bits, so the number is part of the study.
    """
    # cuBLAS reads this when its first handle is created; without it, matrix products may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # The same switch as use_deterministic_algorithms(True), which would also import the whole compiler (6 s).
    torch.set_deterministic_debug_mode("error")
    # No kernel here reads memory before writing it, and filling memory first took 13 % of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # fp32 must mean fp32
    torch.backends.cuda.matmul.allow_tf32 = False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision for `bf16`, no change for `fp32`; parameters stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class Precise:
    """A network in a given precision: on images [n, 3, S, S] with S pixels a side, forward and backward.

    In bf16 all weights of convolutions and linear layers are cast at once, and so are their gradients in the backward
    pass. Autocast alone would cast each weight at its layer, with one launch per tensor and the same rounding. The gate
    computes in float32, so its weights are not cast.

    Args:
        network: any mode.
        precision: `fp32` or `bf16`.
    """

    def __init__(self, network: CooperativeNetwork, precision: str):
        self.network, self.precision = network, precision
        self.cast: dict[str, tuple[Tensor, Tensor]] = {}
        if precision == "bf16":
            self._cast()
            for _, copy in self.cast.values():
                copy.requires_grad_(torch.is_grad_enabled())

    @torch.no_grad()
    def _cast(self) -> None:
        for place, module in self.network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and not place.startswith("gate"):
                for name, weight in module.named_parameters(recurse=False):
                    self.cast[f"{place}.{name}"] = weight, torch.empty_like(weight, dtype=torch.bfloat16)
        torch._foreach_copy_([copy for _, copy in self.cast.values()], [weight for weight, _ in self.cast.values()])

    def __call__(self, images: Tensor) -> Outputs:
        """Forward pass."""
        copies = {name: copy for name, (_, copy) in self.cast.items()}
        with autocast(images.device, self.precision):
            outputs: Outputs = functional_call(self.network, copies, (images,)) if copies else self.network(images)
        return outputs

    @torch.no_grad()
    def return_gradients(self) -> None:
        """After a backward pass, set each weight's gradient to that of its copy, in float32."""
        used = [(weight, copy) for weight, copy in self.cast.values() if copy.grad is not None]
        gradients = [torch.empty_like(weight) for weight, _ in used]
        for (weight, _), gradient in zip(used, gradients, strict=True):
            weight.grad = gradient
        if used:
            torch._foreach_copy_(gradients, [copy.grad for _, copy in used if copy.grad is not None])


@contextmanager
def counted_at_once(network: nn.Module) -> Iterator[None]:
    """Count a batch in all BatchNorm layers in training mode, with one launch for all of them instead of one for each.

    Each layer must run exactly once. A BatchNorm with a cumulative average needs its count during the forward pass, so
    it counts by itself.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    norms = [norm for norm in norms if norm.training and norm.momentum is not None]
    counters: list[Tensor] = [norm.num_batches_tracked for norm in norms]  # type: ignore[misc]
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
    if counters:
        torch._foreach_add_(counters, 1)


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of classes ranked above the true one: [N, M, C] and [N] → [N, M].

    Equal logits are ranked by class index, so a branch with constant logits (all zero) does not count as correct.
    """
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    true = logits.gather(2, index)
    earlier = torch.arange(logits.shape[2], device=logits.device) < labels[:, None, None]
    return ((logits > true) | ((logits == true) & earlier)).sum(dim=2)


class Meters:
    """Sums over images, kept on the device so that no step has to wait for them.

    `sums` [3 + 2(B + 1)] float64: loss, cross-entropy, KL, then hits at rank 1 and at rank 5 of each branch and the
    ensemble, over `images` images.
    """

    def __init__(self, branches: int, device: torch.device):
        self.branches = branches
        self.sums = torch.zeros(3 + 2 * (branches + 1), dtype=torch.float64, device=device)
        self.images = 0

    def clear(self) -> None:
        """Reset all sums."""
        self.sums.zero_()
        self.images = 0

    @torch.no_grad()
    def add(self, outputs: Outputs, labels: Tensor, losses: Loss) -> None:
        """Add a batch to the sums, on the device only. `losses` holds its means; the caller counts the images."""
        rank = ranks(torch.cat([outputs.branches, outputs.ensemble.unsqueeze(1)], dim=1), labels)
        hits = [(rank < k).sum(dim=0).double() for k in (1, 5)]
        self.sums += torch.cat([torch.stack(losses).double() * len(labels), *hits])

    def row(self, prefix: str) -> dict[str, float]:
        """Means over the images as columns of the history; accuracies in percent."""
        means = [value / self.images for value in self.sums.tolist()]
        names = [f"branch{b + 1}" for b in range(self.branches)] + ["ensemble"]
        row = dict(zip((f"{prefix}_{x}" for x in ("loss", "cross_entropy", "kl")), means, strict=False))
        for k, top in enumerate(("top1", "top5")):
            for i, name in enumerate(names):
                row[f"{prefix}_{top}_{name}"] = 100 * means[3 + k * len(names) + i]
        return row


def batches(draws: Draws, batch_size: int, first: int, last: int) -> Iterator[Draws]:
    """Batches `first` to `last` (exclusive) of an epoch."""
    for step in range(first, last):
        part = slice(step * batch_size, (step + 1) * batch_size)
        yield Draws(draws.order[part], draws.offsets[part], draws.flips[part])


def train_step(
    network: CooperativeNetwork,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    teaching: Teaching,
    precision: str,
    meters: Meters,
    teacher: CooperativeNetwork | None = None,
) -> Tensor:
    """Forward, backward and update on one batch; returns its loss, a scalar.

    Images are [n, 3, S, S] with S pixels a side, labels [n].
    """
    targets = None if teacher is None else teacher_targets(teacher, images, teaching, precision)
    precise = Precise(network, precision)
    with counted_at_once(network):
        outputs = precise(images)
    losses = loss(outputs, labels, teaching, targets)
    optimizer.clear_gradients()
    losses.total.backward()
    precise.return_gradients()
    optimizer.step()
    meters.add(outputs, labels, losses)
    return losses.total.detach()


@torch.no_grad()
def teacher_targets(teacher: CooperativeNetwork, images: Tensor, teaching: Teaching, precision: str) -> Tensor:
    """Softened probabilities [n, C] of a teacher in eval mode, for the same augmented images."""
    return soft_targets(Precise(teacher, precision)(images), teaching.temperature)


class Evaluation:
    """Loss and accuracies of a network on a split, in the split's own order and large batches.

    Args:
        network: any mode; it is left in eval mode.
        split: on the network's device.
        precision: `fp32` or `bf16`.
        teacher: the teacher that the loss needs, in eval mode; or None.
    """

    def __init__(
        self,
        network: CooperativeNetwork,
        split: Images,
        precision: str,
        teacher: CooperativeNetwork | None = None,
    ):
        self.network, self.split, self.precision, self.teacher = network, split, precision, teacher
        device = split.labels.device
        size = evaluation_batch(split)
        self.places = torch.arange(len(split)).split(size)  # for reading from memory, which must not wait for a GPU
        self.batches = torch.arange(len(split), device=device).split(size)
        self.meters = Meters(network.architecture.branches, device)
        self.step = GraphedStep(self._batch, device)

    @torch.no_grad()  # inference_mode would make a graph's random state unusable for later recordings
    def __call__(self, teaching: Teaching) -> Meters:
        """Evaluate the network as it is now. If work is replayed, every weight that changes must be a tensor."""
        self.network.eval()
        self.teaching = teaching
        self.meters.clear()
        for indices, pixels in zip(self.batches, self.split.fetched(self.places), strict=True):
            self.step(indices, *pixels)
        self.meters.images = len(self.split)
        return self.meters

    def _batch(self, indices: Tensor, pixels: Tensor | None = None) -> None:
        images, labels = self.split.plain(indices, pixels), self.split.labels[indices]
        outputs = Precise(self.network, self.precision)(images)
        targets = None if self.teacher is None else teacher_targets(self.teacher, images, self.teaching, self.precision)
        self.meters.add(outputs, labels, loss(outputs, labels, self.teaching, targets))


@torch.inference_mode()
def logits(network: CooperativeNetwork, split: Images) -> dict[str, Tensor]:
    """Branch logits [N, B, C] and gate weights [N, B] of a split, in float32, on the CPU; eval mode."""
    network.eval()
    batches_ = torch.arange(len(split), device=split.labels.device).split(evaluation_batch(split))
    parts = [network(split.plain(indices)) for indices in batches_]
    return {
        "branches": torch.cat([part.branches for part in parts]).cpu(),
        "gate": torch.cat([part.gate for part in parts]).cpu(),
    }
