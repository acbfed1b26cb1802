"""Merging: one network of B branches from B trained one-branch networks.

`combine` keeps the trunk of every parent; `merge` puts their branches on one trunk. Sources: trunks are matched by the
weight matching of Git Re-Basin (Ainsworth, Hayase and Srinivasa, ICLR 2023, arXiv 2209.04836, algorithm 1). The
statistics of BatchNorm are estimated again afterwards, which REPAIR found necessary (Jordan, Sedghi, Saukh, Entezari
and Neyshabur, ICLR 2023, arXiv 2211.08403).

`refit` is related to RegMean (Jin, Ren, Preotiuc-Pietro and Cheng, ICLR 2023, arXiv 2212.09849), which solves for one
layer that imitates the layers of all networks, and to stitching by least squares (Csiszárik et al., NeurIPS 2021,
arXiv 2110.14633), which inserts a new layer between two frozen networks. Here the first trunk is unchanged and no layer
is added: every other branch gets convolutions that compute on that trunk what its own computed on its own trunk.
"""

import copy
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from coopnet.data.seeding import derive
from coopnet.files.errors import CoopNetError
from coopnet.networks.network import (
    Architecture,
    BasicBlock,
    Bottleneck,
    CooperativeNetwork,
    build,
)
from coopnet.networks.transfer import (
    OptimizerState,
    Origin,
    TrainedNetwork,
    empty_optimizer_state,
    origins,
    transplant,
    with_gate,
)

if TYPE_CHECKING:
    from coopnet.networks.backbone import Backbone

Batches = Callable[[], Iterable[Tensor]]
"""Returns the same normalised images [n, 3, S, S] with S pixels a side, in batches, each time it is called."""

Axis = tuple[str, int]
"""A dimension of a tensor of a network: the tensor's name in the state dict, and the index of the dimension."""

TRUNKS = ("first", "mean", "matched", "refit")
GATES = ("learned", "mean")
GATE_ROWS = ("uniform", "parents")


@torch.no_grad()
def combine(parents: Sequence[TrainedNetwork], *, gate: str, gate_rows: str, seed: int) -> TrainedNetwork:
    """Join B one-branch networks in a network of B branches, each on its parent's own trunk.

    Args:
        parents: the trained networks, on one device, and their optimiser state; not changed.
        gate: `mean` is the plain ensemble of the parents' logits; `learned` reads the features of all trunks.
        gate_rows: initial rows of a learned gate, see `merge`. A row copied from a parent reads only that parent's
            trunk.
        seed: of the fresh weights.

    Returns:
        The network and its optimiser state: the parents' state for each copied tensor, zero for each new one.

    Raises:
        ValueError: an unknown option, fewer than two parents, or parents that do not fit together.
    """
    _require("gate", gate, GATES)
    _require("gate_rows", gate_rows, GATE_ROWS)
    _require_alike(parents)
    architecture = replace(parents[0].network.architecture, branches=len(parents), gate=gate, trunk="own")
    return _assemble(_complete(parents), architecture, gate_rows, seed)


@torch.no_grad()
def merge(
    parents: Sequence[TrainedNetwork],
    *,
    trunk: str,
    reestimate: bool,
    gate_rows: str,
    seed: int,
    images: Batches,
    ridge: float,
) -> TrainedNetwork:
    """Put the branches of B networks on one shared trunk, with a learned gate.

    Args:
        parents: the trained networks, on one device, and their optimiser state; not changed.
        trunk: source of the trunk.
            `first`: the first network.
            `mean`: the mean of all trunks, including the statistics of BatchNorm.
            `matched`: the mean, after the channels of every other network were permuted to match the first one's.
            `refit`: the first network; in every other branch the convolutions that read the trunk are solved again, so
            that they compute on `images` what they computed on their own trunk.
        reestimate: whether to estimate the statistics of BatchNorm on `images`. `refit` always does.
        gate_rows: initial rows of the gate. `uniform`: BatchNorm γ = 0 and β = 1, so that all branches have the same
            weight and the gate can learn. `parents`: each row is copied from its parent's gate, as published; a parent
            without a gate contributes the row of `with_gate`.
        seed: of the fresh weights and of the order in which permutations are matched.
        images: training images on the parents' device; read only if they are needed.
        ridge: for `refit`, see `solve_convolution`.

    Returns:
        The network and its optimiser state: the parents' state for each copied tensor, their mean for each averaged
        one (a parent without state counts as zero), zero for each new one. BatchNorm's counters come from the module's
        parent, and in the trunk from the first one. The gate's counter is the first one's for `gate_rows` `parents`,
        and zero for `uniform`.

    Raises:
        ValueError: an unknown option, fewer than two parents, parents that do not fit together, or no images.
    """
    _require("trunk", trunk, TRUNKS)
    _require("gate_rows", gate_rows, GATE_ROWS)
    _require_alike(parents)
    family = _complete(parents)
    if trunk == "matched":
        family[1:] = [permute(other, match(family[0].network, other.network, seed)) for other in family[1:]]
    architecture = replace(parents[0].network.architecture, branches=len(parents), gate="learned")
    merged = _assemble(family, architecture, gate_rows, seed)
    if trunk in ("mean", "matched"):
        _average_trunks(family, merged)
    if trunk == "refit":
        _refit_branches(family, merged, images, ridge)
    if reestimate or trunk == "refit":
        reestimate_statistics(merged.network, images)
    return merged


def _require(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {option} {value!r}, not one of {', '.join(known)}")


def _require_alike(parents: Sequence[TrainedNetwork]) -> None:
    """Refuse parents that differ in anything but the gate."""
    if len(parents) < 2:
        raise ValueError(f"at least 2 parents are needed, not {len(parents)}")
    first = parents[0].network.architecture
    for number, parent in enumerate(parents, start=1):
        other = parent.network.architecture
        if other.branches != 1:
            raise ValueError(f"parent {number} has {other.branches} branches, a parent must have one")
        if other.trunk != "shared":
            raise ValueError(f"parent {number} has trunk {other.trunk!r}, a parent must have trunk 'shared'")
        mine, its = _alike(first), _alike(other)
        for field in mine | its:
            if mine.get(field) != its.get(field):
                raise ValueError(
                    f"parent {number} has {field} {its.get(field)}, parent 1 has {field} {mine.get(field)}"
                )
        shapes = [_shapes(one.network) for one in (parents[0], parent)]
        odd = sorted(dict(shapes[0] ^ shapes[1]))
        if odd:  # two models of one class
            raise ValueError(
                f"parent {number} has tensors that parent 1 lacks, or of other shapes: {', '.join(odd[:3])}"
            )


def _shapes(network: CooperativeNetwork) -> set[tuple[str, torch.Size]]:
    """Names and shapes of all tensors but the gate's."""
    return {(name, tensor.shape) for name, tensor in network.state_dict().items() if not name.startswith("gate.")}


def _alike(architecture: "Architecture | Backbone") -> dict[str, Any]:
    """The settings that must be equal in all parents."""
    return {
        field: value for field, value in architecture.to_dict().items() if field not in ("branches", "gate", "trunk")
    }


# Assembling ---------------------------------------------------------------------------------------------------------


def _complete(parents: Sequence[TrainedNetwork]) -> list[TrainedNetwork]:
    """The parents, each with a gate and with every kind of optimiser state that any of them has."""
    kinds: OptimizerState = dict(ChainMap(*(parent.optimizer_state for parent in parents)))
    family = []
    for parent in parents:
        network, optimizer_state = with_gate(parent)
        network.to(_device(parent.network))  # `with_gate` builds on the CPU
        zeros = empty_optimizer_state(network, kinds)
        family.append(TrainedNetwork(network, {slot: zeros[slot] | optimizer_state.get(slot, {}) for slot in kinds}))
    return family


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _assemble(
    family: Sequence[TrainedNetwork], architecture: "Architecture | Backbone", gate_rows: str, seed: int
) -> TrainedNetwork:
    """A network of all branches and gate rows, on the first trunk or on all trunks, and its optimiser state."""
    network = build(architecture, seed).to(_device(family[0].network))
    optimizer_state = empty_optimizer_state(network, family[0].optimizer_state)
    if network.gate is not None and gate_rows == "uniform":
        nn.init.zeros_(network.gate.norm.weight)
        nn.init.ones_(network.gate.norm.bias)
    elif network.gate is not None:
        nn.init.zeros_(network.gate.linear.weight)
    # The first parent is copied last: where only one parent fits (a shared trunk, counters), its tensors stay.
    for b, parent in reversed(list(enumerate(family))):
        plan = inheritance(network, b, gate_rows)
        transplant(plan, parent.network.state_dict(), _as_read_by(b, network, network.state_dict()))
        for slot, tensors in parent.optimizer_state.items():
            transplant(plan, tensors, _as_read_by(b, network, optimizer_state[slot]))
    return TrainedNetwork(network, optimizer_state)


def inheritance(network: CooperativeNetwork, b: int, gate_rows: str) -> dict[str, Origin]:
    """The tensors that `network` inherits from the parent of branch `b`: branch, trunk and, optionally, gate row."""
    plan = origins(network, [0 if branch == b else None for branch in range(network.architecture.branches)])
    own = f"trunks.{b}."
    for name in network.state_dict():
        if name.startswith(own):
            plan[name] = Origin(f"trunk.{name.removeprefix(own)}")
        if name == "gate.log_prior" or (name.startswith("gate.") and gate_rows == "uniform"):
            plan.pop(name, None)
    return plan


def _as_read_by(b: int, network: CooperativeNetwork, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`tensors`; for a gate that reads several trunks, only the columns of trunk `b`."""
    name, channels = "gate.linear.weight", network.architecture.trunk_channels
    if network.trunk is not None or name not in tensors or tensors[name].dim() == 0:
        return tensors
    return {**tensors, name: tensors[name].narrow(1, b * channels, channels)}


def _average_trunks(family: Sequence[TrainedNetwork], merged: TrainedNetwork) -> None:
    """Set the trunk and its optimiser state to the mean over all parents; integer counters are unchanged."""
    _average([parent.network.state_dict() for parent in family], merged.network.state_dict())
    for slot, tensors in merged.optimizer_state.items():
        _average([parent.optimizer_state[slot] for parent in family], tensors)


def _average(donors: Sequence[Mapping[str, Tensor]], recipient: Mapping[str, Tensor]) -> None:
    for name, target in recipient.items():
        if name.startswith("trunk.") and target.is_floating_point():
            target.copy_(torch.stack([donor[name].cpu().double() for donor in donors]).mean(dim=0))


# Permutations -------------------------------------------------------------------------------------------------------


def permutations(architecture: "Architecture | Backbone") -> dict[str, list[Axis]]:
    """All ways to reorder a trunk's channels without changing the function of a network with one trunk.

    The blocks of a stage share one permutation through their skip connections. A stage whose first block has no
    projection shares it with the stage before. The inner channels of each block have their own. The last permutation
    of the trunk also applies to the inputs of branches and gate.

    Returns:
        For each permutation, named after the module where it begins, all dimensions that it applies to.
    """
    if not isinstance(architecture, Architecture):
        raise ValueError(
            f"trunk matched knows the channels of this project's residual networks only, not those of "
            f"{architecture.name}; merge with trunk first or mean, or with refit if plain convolutions read the trunk"
        )
    network = build(architecture, seed=0)  # only for its modules; PyTorch's meta device would import the compiler
    assert network.trunk is not None
    stream = "trunk.stem"  # the permutation of the channels along the skip connections
    axes = {stream: _written(f"{stream}.0", f"{stream}.1")}
    for name, block in network.trunk.named_modules(prefix="trunk"):
        if not isinstance(block, BasicBlock | Bottleneck):
            continue
        convolutions = 2 if isinstance(block, BasicBlock) else 3
        axes[stream] += _read(f"{name}.conv1")
        for i in range(1, convolutions):
            axes[f"{name}.conv{i}"] = _written(f"{name}.conv{i}", f"{name}.bn{i}") + _read(f"{name}.conv{i + 1}")
        if block.shortcut is not None:
            axes[stream] += _read(f"{name}.shortcut.0")
            stream = name
            axes[stream] = _written(f"{name}.shortcut.0", f"{name}.shortcut.1")
        axes[stream] += _written(f"{name}.conv{convolutions}", f"{name}.bn{convolutions}")
    for b, branch in enumerate(network.branches):
        for convolution in architecture.readers(branch):
            axes[stream] += _read(f"branches.{b}.{convolution}")
    if network.gate is not None:
        axes[stream] += _read("gate.linear")
    return axes


def _written(convolution: str, norm: str) -> list[Axis]:
    """The output dimensions of a convolution and its BatchNorm."""
    return [(f"{convolution}.weight", 0)] + [
        (f"{norm}.{tensor}", 0) for tensor in ("weight", "bias", "running_mean", "running_var")
    ]


def _read(layer: str) -> list[Axis]:
    return [(f"{layer}.weight", 1)]


@torch.no_grad()
def permute(trained: TrainedNetwork, order: Mapping[str, Tensor]) -> TrainedNetwork:
    """Reorder channels of a network with one trunk, and its optimiser state accordingly.

    Args:
        trained: not changed.
        order: for names among `permutations(…)`: the old channel of each new channel, [channels].

    Returns:
        A network with the same function, up to the rounding of sums in another order.
    """
    axes = permutations(trained.network.architecture)
    network, optimizer_state = copy.deepcopy(trained)
    network.load_state_dict(_permuted(network.state_dict(), axes, order))
    return TrainedNetwork(network, {slot: _permuted(tensors, axes, order) for slot, tensors in optimizer_state.items()})


def _permuted(
    tensors: Mapping[str, Tensor], axes: Mapping[str, Sequence[Axis]], order: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    result = dict(tensors)
    for permutation, channels in order.items():
        for name, dimension in axes[permutation]:
            if name in result and result[name].dim():  # buffers have no optimiser state, Adam's step has no channels
                result[name] = result[name].index_select(dimension, channels.to(result[name].device))
    return result


@torch.no_grad()
def match(reference: CooperativeNetwork, other: CooperativeNetwork, seed: int) -> dict[str, Tensor]:
    """Find the order of channels that brings one trunk closest to another: weight matching of Git Re-Basin.

    Coordinate descent on the squared distance between the parameters of the two trunks: one permutation at a time is
    solved as a linear assignment, in random order, until none improves. The result is a local optimum.

    Args:
        reference: the network to match; both networks have one trunk, of the same architecture.
        other: the network to be permuted.
        seed: of the order in which permutations are visited.

    Returns:
        For each of `permutations(…)` the channels of `other` in their new order, in the format of `permute`.
    """
    fixed, moved = _trunk_parameters(reference), _trunk_parameters(other)
    axes = {
        permutation: [(name, dimension) for name, dimension in where if name in fixed]
        for permutation, where in permutations(reference.architecture).items()
    }
    order = {permutation: torch.arange(len(fixed[where[0][0]])) for permutation, where in axes.items()}
    generator = torch.Generator().manual_seed(derive(seed, "matching"))
    names, improved = list(axes), True
    while improved:
        improved = False
        for i in torch.randperm(len(names), generator=generator).tolist():
            permutation = names[i]
            step = _assignment(fixed, moved, axes[permutation])
            if step is not None:
                moved = _permuted(moved, axes, {permutation: step})
                order[permutation] = order[permutation][step]
                improved = True
    return order


def _trunk_parameters(network: CooperativeNetwork) -> dict[str, Tensor]:
    assert network.trunk is not None
    return {name: p.cpu().double() for name, p in network.trunk.named_parameters(prefix="trunk")}


def _assignment(fixed: Mapping[str, Tensor], moved: Mapping[str, Tensor], axes: Sequence[Axis]) -> Tensor | None:
    """The best order of the channels in `axes`; None if none is better than the current one."""
    from scipy.optimize import linear_sum_assignment  # importing it takes half a second, and no other run needs it

    # Distances are smallest where inner products are largest; similarity[i, j] is that of channel i and channel j.
    similarity = torch.stack(
        [_by_channel(fixed[name], dimension) @ _by_channel(moved[name], dimension).T for name, dimension in axes]
    ).sum(dim=0)
    rows, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
    gain = similarity[rows, columns].sum() - similarity.trace()
    # Without a margin, rounding could make two equally good orders alternate for ever.
    return torch.from_numpy(columns) if gain > 1e-9 * similarity.abs().max() else None


def _by_channel(tensor: Tensor, dimension: int) -> Tensor:
    """Reshape to [channels along `dimension`, everything else]."""
    return tensor.movedim(dimension, 0).reshape(tensor.shape[dimension], -1)


# Refitting ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def solve_convolution(like: nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]], ridge: float) -> Tensor:
    """Weights of the convolution that best maps given inputs to given outputs, by ridge regression.

    Args:
        like: a convolution without bias; its kernel size, stride and padding are used.
        pairs: batches of inputs [n, C, H, W] and target outputs [n, O, H′, W′]; O may differ from that of `like`.
        ridge: λ in units of the mean diagonal of XᵀX, where X holds the patches of the inputs. It must be positive, so
            that dead and collinear channels do no harm.

    Returns:
        [O, C, k, k] in float32, on the CPU: YᵀX (XᵀX + λ·mean(diag XᵀX)·I)⁻¹, summed and solved in float64.

    Raises:
        ValueError: a ridge that is not positive, or no pairs.
        CoopNetError: all inputs are zero, or are not numbers.
    """
    if ridge <= 0:
        raise ValueError(f"ridge {ridge} is not positive")
    sums: tuple[Tensor, Tensor] | None = None
    for inputs, wanted in pairs:
        patches = F.unfold(inputs, like.kernel_size, padding=like.padding, stride=like.stride)  # type: ignore[arg-type]
        x = patches.double().transpose(0, 1).flatten(1)  # [C·k·k, n·H′·W′]
        y = wanted.double().transpose(0, 1).flatten(1)  # [O, n·H′·W′]
        products = (x @ x.T, y @ x.T)
        sums = products if sums is None else (sums[0] + products[0], sums[1] + products[1])
    if sums is None:
        raise ValueError("no images to refit convolutions on")
    gram, moments = sums[0].cpu(), sums[1].cpu()
    if not gram.diagonal().mean() > 0:  # this also catches NaN
        raise CoopNetError(
            "there is nothing to refit convolutions on: what the first network's trunk makes of the training images is "
            "zero or not a number throughout; look at how its training ended, and lower its training.optimizer.lr"
        )
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weight: Tensor = torch.linalg.solve(gram, moments, left=False)
    return weight.reshape(len(weight), like.in_channels, *like.kernel_size).float()


def _refit_branches(family: Sequence[TrainedNetwork], merged: TrainedNetwork, images: Batches, ridge: float) -> None:
    """Solve the convolutions that read the trunk in every branch but the first; their optimiser state becomes zero."""
    branches = list(merged.network.branches)[1:]
    for name in merged.network.architecture.readers(merged.network.branches[0]):
        old = [parent.network.branches[0].get_submodule(name) for parent in family]
        like = old[0]
        assert isinstance(like, nn.Conv2d)
        # One system of equations serves all branches, since all of them read the same features.
        weights = solve_convolution(like, _features_and_targets(family, old, images), ridge).chunk(len(branches))
        for b, (branch, weight) in enumerate(zip(branches, weights, strict=True), start=1):
            branch.get_parameter(f"{name}.weight").copy_(weight)
            for tensors in merged.optimizer_state.values():
                tensors[f"branches.{b}.{name}.weight"].zero_()


def _features_and_targets(
    family: Sequence[TrainedNetwork], convolutions: Sequence[nn.Module], images: Batches
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features of the first trunk, and the outputs of the other parents' convolutions on their own trunks."""
    networks = [copy.deepcopy(parent.network).eval() for parent in family]  # the parents' mode must not change
    for batch in images():
        features = [network.features(batch)[0] for network in networks]
        targets = [convolution(one) for convolution, one in zip(convolutions, features, strict=True)]
        yield features[0], torch.cat(targets[1:], dim=1)


# Statistics ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def reestimate_statistics(network: nn.Module, images: Batches) -> None:
    """Replace BatchNorm's running statistics by their means over one pass through `images`, in place.

    Every batch has the same weight. Weights, momentum, mode and `num_batches_tracked` are unchanged. Dropout is off, as
    it is where the statistics are used. A BatchNorm that no image reaches keeps its own.

    Raises:
        ValueError: no images.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None
    ]
    kept = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    mode = network.training
    network.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
    for batch in images():
        network(batch)
    network.train(mode)
    measured = [bool(norm.num_batches_tracked) for norm in norms]
    if norms and not any(measured):
        raise ValueError("no images to estimate the statistics of BatchNorm on")
    for norm, (momentum, before), new in zip(norms, kept, measured, strict=True):
        norm.momentum = momentum
        for name, buffer in norm.named_buffers():
            if not new or name == "num_batches_tracked":
                buffer.copy_(before[name])
