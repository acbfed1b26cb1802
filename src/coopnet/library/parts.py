"""The deployable parts of a trained network: one branch, some branches, or the ensemble, as plain modules."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from coopnet.files.errors import CoopNetError
from coopnet.library.checks import check_modules
from coopnet.library.transfers import checked_branches, like
from coopnet.networks.network import CooperativeNetwork, build
from coopnet.networks.transfer import Origin, origins, transplant


class Single(nn.Module):
    """One branch with its trunk: a plain network, images → logits [N, C]."""

    def __init__(self, trunk: nn.Module, branch: nn.Module):
        super().__init__()
        self.trunk, self.branch = trunk, branch

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] → logits [N, C], in float32."""
        logits: Tensor = self.branch(self.trunk(images))
        return logits.float()


class Ensemble(nn.Module):
    """A cooperative network whose only output is the ensemble's logits, [N, C]."""

    def __init__(self, network: CooperativeNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] → gate-weighted sum of the branch logits, [N, C]."""
        ensemble: Tensor = self.network(images).ensemble
        return ensemble


def branch(network: CooperativeNetwork, number: int, *, fold: bool = False) -> nn.Module:
    """One branch as a plain module that shares no tensors with the network.

    Args:
        network: not changed.
        number: of the branch, from 1.
        fold: whether to fold BatchNorm into the convolutions before it; the module then supports eval mode only.

    Returns:
        images → logits [N, C], in the network's mode; in eval mode if folded.

    Raises:
        CoopNetError: there is no such branch.
    """
    (index,) = checked_branches(network, [number])
    trunk = network.trunks[index] if network.trunk is None else network.trunk
    single = Single(copy.deepcopy(trunk), copy.deepcopy(network.branches[index])).train(network.training)
    return folded(single) if fold else single


def subset(network: CooperativeNetwork, branches: Sequence[int]) -> CooperativeNetwork:
    """Some branches as a separate network, whose gate keeps their relative weights.

    Args:
        network: not changed.
        branches: numbered from 1, in their new order.

    Raises:
        CoopNetError: there are no such branches, all of them are closed, a learned gate reads the trunks of others, or
            weights are pruned, parametrized or not float32.
    """
    check_modules(network)
    chosen = checked_branches(network, branches)
    own = network.trunk is None
    if own and network.gate is not None and len(chosen) < len(network.branches):
        raise CoopNetError("the gate of this combined network reads the trunks of all branches; extract one, or all")
    if network.gate is not None and not torch.isfinite(network.gate.log_prior[chosen]).any():
        raise CoopNetError(f"branches {list(branches)} are all closed: their log-prior is −∞")
    gate = "none" if len(chosen) == 1 else network.architecture.gate
    trunk = "own" if own and len(chosen) > 1 else "shared"
    part = build(replace(network.architecture, branches=len(chosen), gate=gate, trunk=trunk), seed=0)
    plan = origins(part, list(chosen))
    for name in part.state_dict():
        if name.startswith("trunks."):
            _, new, rest = name.split(".", 2)
            plan[name] = Origin(f"trunks.{chosen[int(new)]}.{rest}")
        elif own and name.startswith("trunk."):
            plan[name] = Origin(f"trunks.{chosen[0]}.{name.removeprefix('trunk.')}")
    with torch.no_grad():
        transplant(plan, network.state_dict(), part.state_dict())
        if own and part.gate is not None:  # its columns belong to the trunks, in their order
            columns = part.gate.linear.weight.unflatten(1, (len(chosen), -1))[:, chosen].flatten(1)
            part.gate.linear.weight.copy_(columns.clone())
    trunks = [network.trunks[index] for index in chosen] if own else [network.trunk]
    kept = zip(part.branches, (network.branches[index] for index in chosen), strict=True)
    like(network, part, [*zip(part.trunks or [part.trunk], trunks, strict=True), (part.gate, network.gate), *kept])
    return part


def folded(module: nn.Module) -> nn.Module:
    """A copy in eval mode with each BatchNorm folded into the convolution before it, where the module can be traced.

    It computes the same up to rounding, with fewer layers. Nothing is folded where a convolution is used twice, or has
    a weight that is computed.
    """
    from torch.fx.experimental.optimization import fuse

    module = copy.deepcopy(module).eval()
    try:
        used = [node.target for node in fx.symbolic_trace(module).graph.nodes if node.op == "call_module"]
        kernels = [one for one in used if isinstance(module.get_submodule(one), _ConvNd)]
        if len({*kernels}) < len(kernels) or any("weight" not in module.get_submodule(k)._parameters for k in kernels):
            return module
        fused: nn.Module = fuse(module)
    except Exception:  # torch.fx cannot trace the module, which is correct but slower
        return module
    return fused.eval()


def plain(network: CooperativeNetwork, branches: Sequence[int] | None) -> nn.Module:
    """The deployable part of a network, in eval mode and folded: images → logits [N, C].

    Args:
        network: not changed.
        branches: numbered from 1: one, or several with their gate; None for the whole ensemble.
    """
    if branches is None:
        branches = range(1, len(network.branches) + 1)
    checked_branches(network, branches)
    if len(branches) == 1:
        return branch(network, branches[0], fold=True)
    whole = copy.deepcopy(network) if len(branches) == len(network.branches) else subset(network, branches)
    if whole.trunk is not None:
        whole.trunk = folded(whole.trunk)
    for some in (whole.trunks, whole.branches):
        for index, module in enumerate(some):
            some[index] = folded(module)
    return Ensemble(whole).eval()
