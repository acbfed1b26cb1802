"""Checks of arguments: an error names the argument and what it may be."""

import re
from collections.abc import Iterator, Sequence
from numbers import Integral, Real

import torch
from torch import nn

from coopnet.files.errors import CoopNetError
from coopnet.networks.backbone import LIBRARIES, Backbone
from coopnet.networks.network import CooperativeNetwork
from coopnet.networks.tensors import ShapesAlone
from coopnet.study import did_you_mean

WRAPPERS = ("_orig_mod", "module")
"""Where the classes of `WRAPPING` keep the network itself."""

WRAPPING = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "AveragedModel")
"""What `torch.compile`, parallel training and averaging of weights make of a network."""


def check_network(network: object) -> None:
    """Refuse what is not a cooperative network.

    Raises:
        CoopNetError: it is a plain module, or a wrapper around a network; the message says where the network is.
    """
    if not isinstance(network, CooperativeNetwork):
        kind = type(network).__name__
        for place in WRAPPERS if isinstance(network, nn.Module) else ():
            if isinstance(getattr(network, place, None), CooperativeNetwork):
                raise CoopNetError(f"a {kind} wraps a cooperative network; pass the network itself, its `.{place}`")
        raise CoopNetError(f"a {kind} is not a cooperative network; make one with coopnet.wrap or coopnet.cooperative")


def check_model(model: object) -> None:
    """Refuse what is not a model, and wrappers around one.

    Raises:
        CoopNetError: says what to pass instead.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise CoopNetError(f"the model is {kind}; pass a torch.nn.Module, or timm/NAME or torchvision/NAME")
    if type(model).__name__ in WRAPPING:
        place = next(place for place in WRAPPERS if hasattr(model, place))
        raise CoopNetError(f"a {type(model).__name__} wraps the model; pass the model itself, its `.{place}`")


def check_tensors(network: CooperativeNetwork) -> None:
    """Refuse a network whose tensors would not be copied or saved.

    Raises:
        CoopNetError: they have other names than those of its architecture, as after pruning or with parametrizations,
            or another type than float32.
    """
    check_network(network)
    for piece, like in _pieces(network):
        odd = sorted(piece.state_dict().keys() ^ like.state_dict().keys())
        if odd:
            raise CoopNetError(
                f"the tensors of the network are not those of its architecture ({odd[0]}); make pruned or parametrized "
                "weights plain first, with prune.remove or parametrize.remove_parametrizations of torch.nn.utils"
            )
    other = next((p for p in network.parameters() if p.dtype != torch.float32), None)
    if other is not None:
        raise CoopNetError(
            f"the network has weights of {str(other.dtype).removeprefix('torch.')}, and float32 is needed: call "
            "network.float(); for speed, train under torch.autocast"
        )


def check_modules(network: CooperativeNetwork) -> None:
    """Refuse a network that a transfer would not reproduce: as `check_tensors`, and settings of modules count, too.

    Raises:
        CoopNetError: its tensors are refused, or a module was replaced or changed after the network was made.
    """
    check_tensors(network)
    for piece, like in _pieces(network):
        modules = dict(piece.named_modules())
        for name, module in like.named_modules():
            had, has = _settings(module), _settings(modules[name]) if name in modules else "gone"
            if had != has:
                raise CoopNetError(
                    f"the module {name} of a trunk or branch is {has}, and was {had} when the network was made; a new "
                    "network would have the old one: set it back, or change the model and wrap that"
                )


def _settings(module: nn.Module) -> str:
    """`Dropout(p=0.1)`: the kind of a module and, if it is a library's, what it shows of its settings."""
    # A BatchNorm computes the same in eval mode whether it is synchronised or not.
    kind = re.sub(r"(Sync)?BatchNorm(\dd)?", "BatchNorm", type(module).__name__)
    known = type(module).__module__.partition(".")[0] in ("torch", *LIBRARIES)  # others may show what they learnt
    return f"{kind}({module.extra_repr() if known else ''})"


def check_computed(branch: nn.Module) -> None:
    """Refuse weights that are computed from others: no layer can initialise these anew.

    Raises:
        CoopNetError: names the layer.
    """
    for name, module in branch.named_modules():
        if hasattr(module, "parametrizations") or {"weight_orig", "weight_v"} & module._parameters.keys():
            raise CoopNetError(
                f"the weights of {name} are computed from others (spectral_norm, weight_norm, …), so they cannot be "
                "initialised anew: wrap the model with fresh=, a function that builds one, or only copy branches "
                "(weights='copied', how='split')"
            )


def _pieces(network: CooperativeNetwork) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each trunk and branch beside a module that has the tensors that it should have."""
    architecture = network.architecture
    if isinstance(architecture, Backbone):
        trunk, branch = architecture.template.trunk, architecture.template.branch
    else:
        with torch.device("meta"), ShapesAlone():
            trunk, branch = architecture.new_trunk(), architecture.new_branch()
    for one in network.trunks if network.trunk is None else (network.trunk,):
        yield one, trunk
    for one in network.branches:
        yield one, branch


def check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that an option does not know.

    Raises:
        CoopNetError: names the option and the words that it knows.
    """
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise CoopNetError(f"{option} {value!r} is not known{hint} (known: {', '.join(known)})")


def check_counts(**counts: object) -> None:
    """Refuse a number of branches, classes or channels that is not a whole number of 1 or more.

    Raises:
        CoopNetError: names the first such argument.
    """
    for option, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or int(count) < 1:
            raise CoopNetError(f"{option} {count!r} is not a whole number of 1 or more")


def check_noise(noise: object) -> None:
    """Refuse a standard deviation that is negative or no number.

    Raises:
        CoopNetError: names it.
    """
    if not isinstance(noise, Real) or not 0 <= float(noise) < float("inf"):
        raise CoopNetError(f"noise {noise!r} is not a number of 0 or more; it is a standard deviation")


def check_seed(seed: object) -> None:
    """Refuse a seed that PyTorch would not accept.

    Raises:
        CoopNetError: it is not a whole number, or outside PyTorch's range.
    """
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**64:
        raise CoopNetError(f"seed {seed!r} is not a whole number from -2**63 to 2**64 - 1; give another")
