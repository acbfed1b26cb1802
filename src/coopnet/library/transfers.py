"""Parameter transfer as function calls: grow, expand, merge, combine; each returns a receipt.

The arithmetic is that of the study: `coopnet.networks.transfer` and `coopnet.networks.merge`.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coopnet.files.errors import CoopNetError
from coopnet.library import probe
from coopnet.library.checks import check_choice, check_computed, check_modules, check_network, check_noise, check_seed
from coopnet.library.optimizers import follow, state_of
from coopnet.library.receipt import Batches, Receipt, batches_of, measure, tensor_origins
from coopnet.networks import merge as merging
from coopnet.networks import transfer
from coopnet.networks.backbone import Backbone
from coopnet.networks.network import CooperativeNetwork
from coopnet.networks.transfer import Origin, TrainedNetwork

Optimizer = torch.optim.Optimizer

GROWTH = ("split", "masked", "zero_output", "zero_pad")
"""The ways to grow."""


class Transferred(NamedTuple):
    """The result of a transfer.

    Attributes:
        network: the new network, on the device and in the mode of its (first) parent.
        optimizer: an optimiser of its parameters with the state of the parent's; None if none was passed.
        receipt: the origin of each tensor, and what changed.
    """

    network: CooperativeNetwork
    optimizer: Optimizer | None
    receipt: Receipt


def grow(
    network: CooperativeNetwork,
    branches: int,
    *,
    how: str = "split",
    donors: Sequence[int] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    optimizer: Optimizer | None = None,
    images: Tensor | Iterable[Any] | None = None,
) -> Transferred:
    """Add branches to a trained network.

    Args:
        network: with one trunk; not changed. A network without a gate, or with the gate `mean`, gets a learned one,
            which gives the branches that were there equal weights.
        branches: B′, number of branches of the new network.
        how: initial state of the new branches. `split`: copies of trained branches, which share their donors' weight.
            `masked`: fresh, behind a log-prior of −∞, see `open_branches`. `zero_output`: fresh, with classifiers and
            gate rows of zero. `zero_pad`: fresh, with gate rows of zero, as in the published code.
        donors: for `split`: the branches to copy, numbered from 1; by default branch 1, 2, … in turn.
        noise: for `split`: σ in units of each weight tensor's standard deviation. With 0 the growth is exact, and
            copies stay equal to their donors until dropout or noise makes them diverge.
        seed: of fresh weights and noise.
        optimizer: of the network. A new optimiser is made, with its options and the state of every copied tensor. It
            needs a scheduler of its own.
        images: normalised images on which old and new network are compared: a tensor [N, C, H, W], batches, or a
            DataLoader.

    Raises:
        CoopNetError: fewer branches than before, an unknown `how`, donors that do not exist, negative noise, a network
            that is not cooperative, has pruned, parametrized or other than float32 weights, or whose branches have
            their own trunks, or images of which there are none or for which it gives NaN.
    """
    check_modules(network)
    parent = TrainedNetwork(network, {} if optimizer is None else state_of(optimizer, network))
    said = "none was passed" if optimizer is None else f"{type(optimizer).__name__}; {CARRIED}"
    result, plan, receipt = grown(
        parent, branches, how=how, donors=donors, noise=noise, seed=seed, optimizer=said, images=images
    )
    if optimizer is not None:
        optimizer = follow(optimizer, dict(network.named_parameters()), result.network, plan, result.optimizer_state)
    return Transferred(result.network, optimizer, receipt)


def grown(
    parent: TrainedNetwork,
    branches: int,
    *,
    how: str,
    donors: Sequence[int] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    optimizer: str = "none was passed",
    images: Tensor | Iterable[Any] | None = None,
) -> tuple[TrainedNetwork, dict[str, Origin], Receipt]:
    """Like `grow`, for a network and its optimiser's state by name; `optimizer` describes its state in the receipt.

    Returns:
        The new network and state, the origins of its tensors, and the receipt.
    """
    network = parent.network
    if network.trunk is None:
        raise CoopNetError("cannot grow a combined network, whose branches have their own trunks")
    before = network.architecture.branches
    check_choice("how", how, GROWTH)
    check_seed(seed)
    if not isinstance(branches, Integral) or int(branches) <= before:
        raise CoopNetError(f"cannot grow {before} branches into {branches!r}; give {before + 1} or more")
    branches = int(branches)  # it may be NumPy's
    check_noise(noise)
    options = {"donors": donors, "noise": noise} if how == "split" else {}
    if how != "split" and (donors is not None or noise):
        raise CoopNetError(f"donors and noise are for how='split', not for {how!r}; leave them out")
    if how != "split" and isinstance(network.architecture, Backbone) and network.architecture.template.fresh is None:
        check_computed(network.architecture.template.branch)
    result = _attempt(transfer.expand, parent, branches, kind=how, seed=seed, **options)
    sources = transfer.sources_of(how, before, branches, donors)
    plan = transfer.origins(result.network, sources)
    if network.gate is None:
        plan = {name: origin for name, origin in plan.items() if not name.startswith("gate.")}
    copied = [(result.network.branches[b], network.branches[s]) for b, s in enumerate(sources) if s is not None]
    like(network, result.network, [(result.network.trunk, network.trunk), (result.network.gate, network.gate), *copied])
    receipt = Receipt(
        how=f"grow by {how}" + (f", noise {noise:g}" if how == "split" else ""),
        before=(before,),
        after=branches,
        exact=how == "masked" or (how == "split" and noise == 0),
        statement=_of_growth(how, noise),
        reference="the ensemble of the network before",
        tensors=_origins_of_growth(network, result.network, plan, how, noise),
        optimizer=optimizer,
        measured=measure(result.network, [network], batches_of(images)),
    )
    return result, plan, receipt


def expand(
    network: CooperativeNetwork,
    branches: int,
    *,
    how: str = "split",
    noise: float = 0.0,
    seed: int = 0,
    optimizer: Optimizer | None = None,
    images: Tensor | Iterable[Any] | None = None,
) -> Transferred:
    """Make a one-branch network, with or without a gate, into one of several branches: `grow` from 1.

    Raises:
        CoopNetError: the network has several branches, or as for `grow`.
    """
    check_network(network)
    if network.architecture.branches != 1:
        raise CoopNetError(
            f"the network has {network.architecture.branches} branches; use grow; expand is for one branch"
        )
    return grow(network, branches, how=how, noise=noise, seed=seed, optimizer=optimizer, images=images)


def combine(
    networks: Sequence[CooperativeNetwork],
    *,
    gate: str = "learned",
    gate_rows: str = "uniform",
    seed: int = 0,
    images: Tensor | Iterable[Any] | None = None,
) -> Transferred:
    """Join one-branch networks as the branches of one network, each on its own trunk.

    Args:
        networks: of the same architecture, except for their gates; not changed.
        gate: `learned`, or `mean`: their plain ensemble, which has no trainable gate.
        gate_rows: initial rows of a learned gate: `uniform`, or `parents`, as published.
        seed: of fresh weights.
        images: as for `grow`; the reference is the mean of the networks' logits.

    Raises:
        CoopNetError: fewer than two networks, networks that do not fit together, or an unknown option.
    """
    parents = _parents(networks)
    joined, receipt = combined(parents, gate=gate, gate_rows=gate_rows, seed=seed, images=images)
    return Transferred(joined.network, None, receipt)


def combined(
    parents: Sequence[TrainedNetwork],
    *,
    gate: str = "learned",
    gate_rows: str = "uniform",
    seed: int = 0,
    images: Tensor | Iterable[Any] | None = None,
) -> tuple[TrainedNetwork, Receipt]:
    """Like `combine`, for networks and their optimisers' state by name."""
    _refuse_strangers(parents, gate_rows)
    check_choice("gate", gate, merging.GATES)
    check_seed(seed)
    joined = _attempt(merging.combine, parents, gate=gate, gate_rows=gate_rows, seed=seed)
    exact = gate == "mean" or gate_rows == "uniform"
    return _joined(
        parents,
        joined,
        f"combine, gate {gate}" + (f", rows {gate_rows}" if gate == "learned" else ""),
        exact,
        "the ensemble is the mean of the networks' logits"
        if exact
        else "gate rows of different networks were never trained beside each other",
        _origins_from_parents(joined.network, gate_rows),
        batches_of(images),
    )


def merge(
    networks: Sequence[CooperativeNetwork],
    *,
    how: str = "refit",
    images: Tensor | Iterable[Any] | None = None,
    reestimate: bool = False,
    gate_rows: str = "uniform",
    seed: int = 0,
    ridge: float = 1e-4,
) -> Transferred:
    """Put the branches of several one-branch networks on one trunk.

    Args:
        networks: of the same architecture, except for their gates; not changed.
        how: source of the trunk. `refit`: the first network's; in the other branches the convolutions that read it are
            solved again on `images`. `first`: the first network's. `mean`: the mean of all. `matched`: the mean after
            permuting channels (Git Re-Basin, by SciPy); only for this project's residual networks.
        images: normalised training images: a tensor [N, C, H, W], batches, or a DataLoader. `refit` and `reestimate`
            need them; the receipt compares the networks on them.
        reestimate: whether to measure the statistics of BatchNorm again; `refit` always does.
        gate_rows: `uniform`, or `parents`, as published.
        seed: of fresh weights and of the order in which permutations are matched.
        ridge: penalty of the regressions, relative to the features' mean square.

    Raises:
        CoopNetError: fewer than two networks, networks that do not fit together, no images although they are needed, or
            an unknown option; `matched` without SciPy.
    """
    parents = _parents(networks)
    result, receipt = merged(
        parents, how=how, images=images, reestimate=reestimate, gate_rows=gate_rows, seed=seed, ridge=ridge
    )
    return Transferred(result.network, None, receipt)


def merged(
    parents: Sequence[TrainedNetwork],
    *,
    how: str = "refit",
    images: Tensor | Iterable[Any] | None = None,
    reestimate: bool = False,
    gate_rows: str = "uniform",
    seed: int = 0,
    ridge: float = 1e-4,
) -> tuple[TrainedNetwork, Receipt]:
    """Like `merge`, for networks and their optimisers' state by name."""
    _refuse_strangers(parents, gate_rows)
    check_choice("how", how, merging.TRUNKS)
    check_seed(seed)
    batches = batches_of(images)
    if batches is None and (reestimate or how == "refit"):
        raise CoopNetError("how='refit' and reestimate=True need training images; pass images=")
    result = _attempt(
        merging.merge,
        parents,
        trunk=how,
        reestimate=reestimate,
        gate_rows=gate_rows,
        seed=seed,
        images=_beside(parents[0].network, batches) if batches else list,
        ridge=ridge,
    )
    origins = _origins_from_parents(result.network, gate_rows)
    origins |= _origins_of_trunk(result.network, how, reestimate or how == "refit")
    return _joined(
        parents,
        result,
        f"merge, trunk {how}" + (", statistics measured anew" if reestimate or how == "refit" else ""),
        False,
        "branches read a trunk other than their own" + (", by layers fitted to it" if how == "refit" else ""),
        origins,
        batches,
    )


@torch.no_grad()
def open_branches(network: CooperativeNetwork, branches: Sequence[int], share: float) -> None:
    """Set the log-prior of branches that were grown with `masked`, in place: log(share).

    In the study the share is 0 for the first 40 % of the fine-tuning steps, and rises linearly to 1 by 60 %.

    Args:
        network: with a learned gate.
        branches: numbered from 1.
        share: 0 (−∞: closed) to 1 (open).

    Raises:
        CoopNetError: no learned gate, no such branch, a share outside 0..1, or all branches would be closed.
    """
    check_network(network)
    if network.gate is None:
        raise CoopNetError("the network has no learned gate, so it has no log-prior")
    if not 0 <= share <= 1:
        raise CoopNetError(f"share {share} is not between 0 and 1")
    chosen = checked_branches(network, branches)
    prior = network.gate.log_prior.clone()
    prior[chosen] = math.log(share) if share else -math.inf
    if not torch.isfinite(prior).any():
        raise CoopNetError("at least one branch must stay open")
    network.gate.log_prior.copy_(prior)


def checked_branches(network: CooperativeNetwork, branches: Sequence[int]) -> list[int]:
    """Convert branch numbers (from 1) to indices (from 0).

    Raises:
        CoopNetError: there are no such branches, or one is given twice.
    """
    check_network(network)
    count = network.architecture.branches
    if not isinstance(branches, Sequence):
        raise CoopNetError(f"branches {branches!r} is not a list; give their numbers, such as [1, 2]")
    if not branches or not set(branches) <= set(range(1, count + 1)) or len(set(branches)) != len(branches):
        raise CoopNetError(f"branches {list(branches)} are not different numbers from 1 to {count}")
    return [branch - 1 for branch in branches]


# Shared by all -------------------------------------------------------------------------------------------------------


def _beside(network: CooperativeNetwork, batches: Batches) -> Batches:
    """The batches on the network's device."""
    device = next(network.parameters()).device
    return lambda: (batch.to(device) for batch in batches())


def _attempt(work: Any, *arguments: Any, **options: Any) -> TrainedNetwork:
    """Do a transfer, and turn its ValueError, or a library that is not there, into an error for the user."""
    try:
        result: TrainedNetwork = work(*arguments, **options)
    except ValueError as error:
        raise CoopNetError(str(error)) from error
    except ModuleNotFoundError as error:
        raise CoopNetError(f"this needs {error.name}; install it with pip install '.[study]' in a clone") from error
    return result


def _parents(networks: Sequence[CooperativeNetwork]) -> list[TrainedNetwork]:
    if not isinstance(networks, Iterable):
        raise CoopNetError(f"networks is a {type(networks).__name__}; pass a list of two networks or more")
    return [TrainedNetwork(network, {}) for network in networks]


def _refuse_strangers(parents: Sequence[TrainedNetwork], gate_rows: str) -> None:
    if len(parents) < 2:
        raise CoopNetError("pass a list of two networks or more")
    for number, parent in enumerate(parents, 1):
        if gate_rows == "parents" and parent.network.gate is None:
            raise CoopNetError(f"network {number} has no gate whose row could be copied; use gate_rows='uniform'")
        check_modules(parent.network)
        own, first = probe.logits(parent.network), probe.logits(parent.network, like=parents[0].network)
        if probe.differ(own, first):
            raise CoopNetError(
                f"network {number} was wrapped around a model that computes something else than that of network 1 with "
                "the same tensors, such as by other activations or strides; join networks around one kind of model"
            )
    devices = {next(parent.network.parameters()).device for parent in parents}
    if len(devices) > 1:
        raise CoopNetError(f"the networks are on {', '.join(sorted(map(str, devices)))}; move them to one device")


def like(
    parent: CooperativeNetwork,
    network: CooperativeNetwork,
    pieces: Iterable[tuple[nn.Module | None, nn.Module | None]],
) -> None:
    """Move a new network to the device, memory format and mode of its (first) parent; what was frozen stays frozen.

    Args:
        parent: the (first) parent.
        network: the new network.
        pieces: a piece of the new network, and the piece that it was copied from; None: there is none.
    """
    network.to(next(parent.parameters()).device).train(parent.training)
    if any(isinstance(module, nn.SyncBatchNorm) for module in parent.modules()):
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    kernels = [p for p in parent.parameters() if p.dim() == 4]
    if any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in kernels):
        network.to(memory_format=torch.channels_last)
    for new, old in pieces:
        if new is None or old is None:
            continue
        modules, parameters = dict(old.named_modules()), dict(old.named_parameters())
        for name, module in new.named_modules():
            module.training = modules[name].training if name in modules else parent.training
        for name, parameter in new.named_parameters():
            parameter.requires_grad_(parameters[name].requires_grad)


CARRIED = "state carried over for copied tensors and rows, none for new ones"


def _of_growth(how: str, noise: float) -> str:
    """A statement about the exactness of a kind of growth."""
    if how == "split" and noise:
        return f"copies were moved by noise of σ = {noise:g}"
    return {
        "split": "copies share their donors' weight, so the ensemble is the same",
        "masked": "the new branches have weight 0 until their log-prior is opened",
        "zero_output": "predictions are kept; the logits of an image shrink by one factor",
        "zero_pad": "new branches take weight in the ensemble from the start, as exp(0) does in a softmax",
    }[how]


def _origins_of_growth(
    parent: CooperativeNetwork, grown: CooperativeNetwork, plan: dict[str, Origin], how: str, noise: float
) -> dict[str, str]:
    origins = tensor_origins(grown, plan)
    new = [f"branches.{b}." for b in range(parent.architecture.branches, grown.architecture.branches)]
    for name, tensor in grown.state_dict().items():
        if parent.gate is None and name.startswith("gate."):
            origins[name] = "of a new gate that weighs the branches of the parent alike"
        if how in ("zero_pad", "zero_output") and name.startswith("gate.linear."):
            origins[name] = origins[name].replace("fresh", "zero")
        if name == "gate.log_prior":
            origins[name] += {"masked": "; −∞ for new branches", "split": "; −log k for each of k copies"}.get(how, "")
        if name.startswith(tuple(new)):
            if how == "zero_output" and f".{grown.architecture.classifier}." in name:
                origins[name] = "zero"
            if how == "split" and noise and tensor.dim() > 1:
                origins[name] += f", with noise of σ = {noise:g}"
    return origins


def _origins_from_parents(network: CooperativeNetwork, gate_rows: str) -> dict[str, str]:
    """The parent of each tensor of a joined network, in words."""
    origins = dict.fromkeys(network.state_dict(), "of a new gate that weighs all branches alike")
    for b in reversed(range(len(network.branches))):  # the first parent last, as in the transfer
        for name, origin in merging.inheritance(network, b, gate_rows).items():
            copied = f"copied from parent {b + 1}: {origin.name}"
            origins[name] = copied if origin.rows is None else "the row of each branch from the gate of its parent"
    return origins


def _origins_of_trunk(network: CooperativeNetwork, how: str, reestimated: bool) -> dict[str, str]:
    """The tensors that a merge did not just copy, in words."""
    readers = network.architecture.readers(network.branches[0]) if how == "refit" else []
    solved = {f"branches.{b}.{name}.weight" for b in range(1, len(network.branches)) for name in readers}
    origins = {}
    for name in network.state_dict():
        if name.startswith("trunk.") and how in ("mean", "matched") and not name.endswith("num_batches_tracked"):
            origins[name] = "mean of all parents" + (", channels matched to parent 1" if how == "matched" else "")
        if name in solved:
            origins[name] = "solved anew on the images"
        if reestimated and name.endswith(("running_mean", "running_var")):
            origins[name] = "measured anew on the images"
    return origins


def _joined(
    parents: Sequence[TrainedNetwork],
    joined: TrainedNetwork,
    how: str,
    exact: bool,
    statement: str,
    tensors: dict[str, str],
    batches: Batches | None,
) -> tuple[TrainedNetwork, Receipt]:
    networks = [parent.network for parent in parents]
    trunks = zip(joined.network.trunks or [joined.network.trunk], (one.trunk for one in networks), strict=False)
    branches = zip(joined.network.branches, (one.branches[0] for one in networks), strict=True)
    like(networks[0], joined.network, [*trunks, *branches])
    receipt = Receipt(
        how=how,
        before=tuple(network.architecture.branches for network in networks),
        after=joined.network.architecture.branches,
        exact=exact,
        statement=statement,
        reference=f"the mean of the logits of the {len(networks)} networks",
        tensors=tensors,
        optimizer=CARRIED if any(parent.optimizer_state for parent in parents) else "no state was there",
        measured=measure(joined.network, networks, batches),
    )
    return joined, receipt
