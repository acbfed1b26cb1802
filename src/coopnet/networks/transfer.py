"""Parameter transfer: initial weights of a network from a trained one.

Every start is the same transplant (trunk, branches, gate rows, BatchNorm statistics and counters, optimiser state),
followed by its own changes. Sources: `zero_pad` is the published transfer code, and `zero_output` the proof published
with it. `masked` and `split` are exact in the manner of Net2Net (Chen, Goodfellow and Shlens, ICLR 2016,
arXiv 1511.05641).

`split` differs from Net2Net in how copies share their weight: by a log-prior in the gate instead of the weights of the
next layer. `masked` is related to residual gates that start at zero (ReZero, arXiv 2003.04887) and to growth that keeps
the function (GradMax, arXiv 2201.05125): here a new branch has no weight in a softmax at first, learns meanwhile, and
opens by a schedule.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from coopnet.data.seeding import derive
from coopnet.networks.network import CooperativeNetwork, build

OptimizerState = dict[str, dict[str, Tensor]]
"""Optimiser state: slot (`momentum_buffer`, `exp_avg`, …) → parameter name → tensor of the parameter's shape."""

GATE_ROWS = (
    "linear.weight",
    "linear.bias",
    "norm.weight",
    "norm.bias",
    "norm.running_mean",
    "norm.running_var",
    "log_prior",
)
"""Tensors of a gate that hold one row per branch."""


class TrainedNetwork(NamedTuple):
    """A network and its optimiser state, before or after a transfer."""

    network: CooperativeNetwork
    optimizer_state: OptimizerState


@dataclass(frozen=True)
class Origin:
    """The source of a tensor: the donor's tensor `name`, or the listed `rows` of it (None: fresh)."""

    name: str
    rows: tuple[int | None, ...] | None = None


def origins(network: CooperativeNetwork, sources: Sequence[int | None]) -> dict[str, Origin]:
    """Map every inherited tensor of `network` to its source in the donor.

    Args:
        network: the network to be filled.
        sources: for each of its branches the donor's branch (from 0), or None for a fresh one.
    """
    plan = {}
    for name in network.state_dict():
        part, _, rest = name.partition(".")
        if part == "trunk" or name == "gate.norm.num_batches_tracked":
            plan[name] = Origin(name)
        elif part == "gate" and rest in GATE_ROWS:
            plan[name] = Origin(name, tuple(sources))
        elif part == "branches":
            branch, _, rest = rest.partition(".")
            source = sources[int(branch)]
            if source is not None:
                plan[name] = Origin(f"branches.{source}.{rest}")
    return plan


def transplant(plan: Mapping[str, Origin], donor: Mapping[str, Tensor], recipient: Mapping[str, Tensor]) -> None:
    """Copy tensors of `donor` into those of `recipient`, in place; rows without an origin are unchanged."""
    for name, origin in plan.items():
        if name not in recipient or origin.name not in donor:
            continue  # a parameter has optimiser state, a buffer has none
        source, target = donor[origin.name], recipient[name]
        if origin.rows is None or target.dim() == 0:
            target.copy_(source)
            continue
        for row, source_row in enumerate(origin.rows):
            if source_row is not None:
                target[row].copy_(source[source_row])


def empty_optimizer_state(network: nn.Module, optimizer_state: OptimizerState) -> OptimizerState:
    """Optimiser state of the same kinds as `optimizer_state` for another network: zeros of each parameter's shape.

    A slot of scalars (Adam's step count) stays a slot of scalars.
    """
    scalar = {slot: all(t.dim() == 0 for t in tensors.values()) for slot, tensors in optimizer_state.items()}
    return {
        slot: {
            name: torch.zeros(()) if scalar[slot] else torch.zeros_like(parameter)
            for name, parameter in network.named_parameters()
        }
        for slot in optimizer_state
    }


def with_gate(trained: TrainedNetwork) -> TrainedNetwork:
    """Give a plain one-branch network a gate; its function stays the same, since one live branch has weight 1.

    The gate starts uniform and trainable: BatchNorm γ = 0 and β = 1 give every branch the same positive score, so the
    ReLU after it passes gradients.
    """
    if trained.network.gate is not None:
        return trained
    network = build(replace(trained.network.architecture, gate="learned"), seed=0)
    assert network.gate is not None
    transplant(
        {name: Origin(name) for name in trained.network.state_dict()},
        trained.network.state_dict(),
        network.state_dict(),
    )
    nn.init.zeros_(network.gate.norm.weight)
    nn.init.ones_(network.gate.norm.bias)
    optimizer_state = empty_optimizer_state(network, trained.optimizer_state)
    for slot, tensors in trained.optimizer_state.items():
        transplant({name: Origin(name) for name in tensors}, tensors, optimizer_state[slot])
    return TrainedNetwork(network, optimizer_state)


def default_donors(branches: int, new: int) -> tuple[int, ...]:
    """Donors of `new` copies, numbered from 1: branch 1, 2, … in turn."""
    return tuple(i % branches + 1 for i in range(new))


def sources_of(kind: str, before: int, branches: int, donors: Sequence[int] | None = None) -> list[int | None]:
    """For each branch of a grown network the branch (from 0) that it is copied from, or None for a fresh one.

    Raises:
        ValueError: donors that do not fit.
    """
    new = branches - before
    copied = tuple(donors) if donors is not None else default_donors(before, new)
    if kind == "split" and (len(copied) != new or not set(copied) <= set(range(1, before + 1))):
        raise ValueError(f"{new} donors among branches 1 to {before} are needed, not {list(copied)}")
    return [*range(before), *([donor - 1 for donor in copied] if kind == "split" else [None] * new)]


@torch.no_grad()
def expand(
    parent: TrainedNetwork,
    branches: int,
    *,
    kind: str,
    seed: int,
    donors: Sequence[int] | None = None,
    noise: float = 0.0,
) -> TrainedNetwork:
    """Grow a network of B branches to `branches` > B.

    Args:
        parent: the trained network and its optimiser state; not changed.
        branches: B′, number of branches after the growth.
        kind: initial state of the new branches.
            `zero_pad`: fresh, with gate rows of zero. This changes the function: exp(0) in the softmax takes weight.
            `zero_output`: like `zero_pad`, with zero classifiers. All logits of an image shrink by one factor.
            `masked`: fresh, with log-prior −∞. The function is exactly that of the parent.
            `split`: copies of `donors`, including gate rows; a branch that now exists k times has −log k added to the
            log-prior of each copy. With `noise` 0 the function is exactly that of the parent.
        seed: of the fresh weights and of the noise.
        donors: for `split`: the branches to copy, numbered from 1; by default branch 1, 2, … in turn.
        noise: for `split`: σ in units of each weight tensor's own standard deviation, added to the convolutions and
            the classifier of every copy (not of its donor).

    Returns:
        The grown network and its optimiser state: the parent's state for each copied tensor, zero for each new one.

    Raises:
        ValueError: an unknown kind, fewer branches than before, or donors that do not fit.
    """
    parent = with_gate(parent)
    before = parent.network.architecture.branches
    new = branches - before
    if new < 1:
        raise ValueError(f"cannot grow {before} branches into {branches}")
    if kind not in ("zero_pad", "zero_output", "masked", "split"):
        raise ValueError(f"unknown start {kind!r}")
    sources = sources_of(kind, before, branches, donors)
    network = build(replace(parent.network.architecture, branches=branches), seed)
    plan = origins(network, sources)
    transplant(plan, parent.network.state_dict(), network.state_dict())
    optimizer_state = empty_optimizer_state(network, parent.optimizer_state)
    for slot, tensors in parent.optimizer_state.items():
        transplant(plan, tensors, optimizer_state[slot])

    assert network.gate is not None
    if kind in ("zero_pad", "zero_output"):
        network.gate.linear.weight[before:].zero_()
        network.gate.linear.bias[before:].zero_()
    if kind == "zero_output":
        for branch in list(network.branches)[before:]:
            for parameter in branch.get_submodule(network.architecture.classifier).parameters():
                parameter.zero_()
    if kind == "masked":
        network.gate.log_prior[before:] = -math.inf
    if kind == "split":
        copies = Counter(sources)
        network.gate.log_prior -= network.gate.log_prior.new_tensor([math.log(copies[source]) for source in sources])
        perturb(list(network.branches)[before:], noise, seed)
    assert torch.isfinite(network.gate.log_prior).any(), "at least one branch is live"
    return TrainedNetwork(network, optimizer_state)


@torch.no_grad()
def perturb(copies: Sequence[nn.Module], noise: float, seed: int) -> None:
    """Add Gaussian noise to all weights of more than one dimension in every copy, so that copies can diverge.

    Args:
        copies: changed in place.
        noise: σ in units of each weight tensor's own standard deviation.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(derive(seed, "noise"))
    for copy in copies:
        for weight in copy.parameters():
            if weight.dim() > 1:  # biases and scales have no meaningful standard deviation
                drawn = torch.randn(weight.shape, generator=generator, device="cpu")
                weight.add_(noise * weight.std() * drawn.to(weight.device))
