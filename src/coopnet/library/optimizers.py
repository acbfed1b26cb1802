"""The state of a PyTorch optimiser by parameter name, and its transfer to another network."""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coopnet.files.errors import CoopNetError
from coopnet.networks.transfer import OptimizerState, Origin


def state_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> OptimizerState:
    """The state that an optimiser keeps per parameter: slot (`momentum_buffer`, `exp_avg`, …) → name → tensor.

    Raises:
        CoopNetError: the optimiser has no parameter of the network, or its state has another form.
    """
    check_own(optimizer, network)
    state: OptimizerState = {}
    for name, parameter in network.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape in (parameter.shape, ()):
                state.setdefault(slot, {})[name] = value.detach()
            elif value is not None:
                raise CoopNetError(
                    f"the state {slot!r} of {type(optimizer).__name__} is not a tensor of its parameter's shape, so it "
                    "cannot be transferred or saved; leave optimizer= out"
                )
    return state


def check_own(optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """Refuse the optimiser of another network.

    Raises:
        CoopNetError: it has no parameter of this network.
    """
    own = set(network.parameters())
    if not any(parameter in own for group in optimizer.param_groups for parameter in group["params"]):
        raise CoopNetError(
            "the optimizer has no parameter of the network; pass the one that was made with network.parameters()"
        )


def slots_of(optimizer: torch.optim.Optimizer) -> set[str] | None:
    """What such an optimiser keeps of a parameter after its first step; None if that cannot be found out."""
    groups = [_options(group) | {"params": [nn.Parameter(torch.zeros(1))]} for group in optimizer.param_groups]
    for group in groups:
        group["params"][0].grad = torch.zeros(1)
    try:
        one = type(optimizer)(groups)  # type: ignore[call-arg]
        one.step()
    except Exception:  # any optimiser, any error: one that cannot be made from its groups, or that needs a GPU
        return None
    return {slot for state in one.state.values() for slot, value in state.items() if value is not None}


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a parameter group, without its parameters and what a scheduler left behind there."""
    return {option: value for option, value in group.items() if option not in ("params", "param_names", "initial_lr")}


def follow(
    optimizer: torch.optim.Optimizer,
    parents: Mapping[str, nn.Parameter],
    network: nn.Module,
    plan: Mapping[str, Origin],
    state: OptimizerState,
) -> torch.optim.Optimizer:
    """An optimiser of the same kind and options for another network, with the given state.

    Parameters that are not the network's, such as those of a second module, stay in their groups with their state.
    A scheduler of the first optimiser leaves its `initial_lr` behind there; the new one needs a scheduler of its own.

    Args:
        optimizer: not changed.
        parents: its parameters, by name.
        network: the new network.
        plan: origins of inherited tensors. A parameter joins the group of its origin; a parameter of a new branch
            joins the group of the same parameter of the first branch that has it in a group, or else the first group;
            any other joins the group of its own name.
        state: of the new network's parameters. Parameters that are not in the plan start without state.

    Raises:
        CoopNetError: the optimiser cannot be made from its parameter groups only.
    """
    group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    places = {name: group_of[id(p)] for name, p in parents.items() if id(p) in group_of}
    own = {id(p) for p in parents.values()}
    members = [[p for p in group["params"] if id(p) not in own] for group in optimizer.param_groups]
    others = {p for some in members for p in some}
    names: dict[nn.Parameter, str] = {}
    for name, parameter in network.named_parameters():
        place = places.get(_counterpart(name, plan, places))
        if place is not None:
            members[place].append(parameter)
            names[parameter] = name
    groups = [
        _options(group) | {"params": parameters}
        for group, parameters in zip(optimizer.param_groups, members, strict=True)
    ]
    try:
        new = type(optimizer)([group for group in groups if group["params"]])  # type: ignore[call-arg]
    except TypeError as error:
        raise CoopNetError(
            f"cannot make another {type(optimizer).__name__} from its parameter groups ({error}); "
            "transfer without optimizer= and make a new one"
        ) from error
    for parameter, name in names.items():
        if name in plan:
            new.state[parameter] = {
                slot: _placed(tensors[name], parameter, optimizer, slot)
                for slot, tensors in state.items()
                if name in tensors
            }
            if not new.state[parameter]:
                del new.state[parameter]
    new.state.update({p: copy.deepcopy(optimizer.state[p]) for p in others if p in optimizer.state})
    return new


def _counterpart(name: str, plan: Mapping[str, Origin], places: Mapping[str, int]) -> str:
    """The parameter of the parent whose group this parameter joins."""
    if name in plan:
        return plan[name].name
    if name.startswith("branches."):
        same = re.compile(rf"branches\.\d+\.{re.escape(name.split('.', 2)[2])}")
        return next(filter(same.fullmatch, places), next(iter(places)))
    if name.startswith("gate.") and name not in places:  # a plain network has no gate
        return next(iter(places))
    return name


def beside(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    """A copy of a parameter's state on its device and with its strides, as fused optimisers require."""
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device).clone()
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _placed(tensor: Tensor, parameter: nn.Parameter, optimizer: torch.optim.Optimizer, slot: str) -> Tensor:
    """State where the optimiser needs it: beside its parameter; scalars stay on their own device."""
    if tensor.dim() or not parameter.dim():
        return beside(parameter, tensor)
    like = next((value[slot] for value in optimizer.state.values() if slot in value), tensor)
    return tensor.to(like.device).clone()
