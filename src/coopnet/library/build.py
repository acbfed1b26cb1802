"""New cooperative networks: the study's by name, and any traceable model."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from coopnet.files.errors import CoopNetError
from coopnet.library.checks import check_choice, check_computed, check_counts, check_model, check_noise, check_seed
from coopnet.networks.backbone import CONSTANT, LIBRARIES, Template, library_backbone, module_backbone
from coopnet.networks.network import Architecture, CooperativeNetwork, blocks_per_stage, build
from coopnet.networks.transfer import perturb


def cooperative(
    name: str,
    *,
    branches: int,
    classes: int,
    gate: str | None = None,
    block: str = "basic",
    width: int | None = None,
    seed: int = 0,
) -> CooperativeNetwork:
    """A freshly initialised cooperative network of the study, for small images.

    Args:
        name: `cifar_resnet20`, `cifar_resnet32`, `cifar_resnet110`, … (depth 6n+2, or 9n+2 with bottlenecks), or
            `resnet18`.
        branches: number of branches B. The last stage and the classifier exist once per branch.
        classes: number of classes C.
        gate: `learned`; `mean`: all branches have equal weight; `none`: the plain network. By default `learned` for
            several branches, `none` for one.
        block: `basic` or `bottleneck`.
        width: channels of the first stage; 16, or 64 for `resnet18`.
        seed: of the weights; the same seed gives the same bits.

    Returns:
        A network in float32 on the CPU, whatever PyTorch's defaults are.

    Raises:
        CoopNetError: there is no such network.
    """
    known = re.fullmatch(r"(cifar_resnet|resnet)(\d{1,5})", name)
    if known is None or (known[1] == "resnet" and known[2] != "18"):
        raise CoopNetError(
            f"there is no network {name!r}; choose cifar_resnet20, cifar_resnet32, … or resnet18, "
            "or make any other model cooperative with coopnet.wrap"
        )
    check_seed(seed)
    family, depth = ("resnet18" if known[1] == "resnet" else "cifar_resnet"), int(known[2])
    if width is None:
        width = 64 if family == "resnet18" else 16
    check_counts(branches=branches, classes=classes, width=width)
    branches, classes, width = int(branches), int(classes), int(width)  # they may be NumPy's
    gate = gate or ("learned" if branches > 1 else "none")
    check_choice("gate", gate, ("learned", "mean", "none"))
    check_choice("block", block, ("basic", "bottleneck"))
    architecture = Architecture(family, depth, block, width, branches, gate, classes)
    try:
        blocks_per_stage(architecture)
        return build(architecture, seed)
    except ValueError as error:
        raise CoopNetError(str(error)) from error


def wrap(
    model: nn.Module | str,
    split: str,
    *,
    branches: int,
    classes: int,
    gate: str = "learned",
    weights: str = "fresh",
    noise: float = 0.1,
    seed: int = 0,
    example: Tensor | None = None,
    pretrained: bool = False,
    fresh: Callable[[], nn.Module] | None = None,
) -> CooperativeNetwork:
    """Make any traceable model cooperative.

    Args:
        model: the model, which is not changed; or `timm/NAME` or `torchvision/NAME`, which is then created.
        split: name of a module of the model, e.g. `layer4`. Everything computed before it is the trunk.
        branches: number of branches B.
        classes: number of classes C. If the model has another number, its last layer is replaced in every branch.
        gate: `learned`, `mean`, or `none` for a single branch: the plain model.
        weights: initial weights of the branches. `fresh`: each branch has its own new weights, see `fresh`. `copied`:
            each has the weights of the model, with noise from the second branch on so that they can diverge; a replaced
            last layer is fresh. The trunk has the weights of the model in both cases.
        noise: for `copied`, σ in units of each weight tensor's own standard deviation.
        seed: of the fresh weights and of the noise.
        example: a batch of at least two images, as the model's input; by default zeros of the size that the model
            declares, or of 224×224 or 32×32 pixels with three channels. Exports take images of this size, too.
        pretrained: for a model given by name: whether to load its library's pretrained weights.
        fresh: for a model of your own: builds such a model, with `classes` outputs and new weights; each branch takes
            its new weights from one. Without it every layer is initialised anew by its own `reset_parameters`,
            convolutions by He's method (fan-out), and parameters of modules without that method keep the
            model's values, in all branches alike.

    Returns:
        A network with the outputs of the study's networks; `network.architecture` is a `Backbone`.

    Raises:
        CoopNetError: the model cannot be traced or cut there (the message lists splits that work), its output is not
            logits [N, C], a library is not installed or has no such model, or an option is unknown.
    """
    check_choice("weights", weights, ("fresh", "copied"))
    check_counts(branches=branches, classes=classes)
    branches, classes = int(branches), int(classes)  # they may be NumPy's
    check_noise(noise)
    check_seed(seed)
    if example is not None and not isinstance(example, Tensor):
        raise CoopNetError(f"example is a {type(example).__name__}; pass a batch of images, a tensor [N, C, H, W]")
    if isinstance(model, str):
        if fresh is not None:
            raise CoopNetError("fresh= is for a model of your own; a library's models are initialised by their library")
        family, _, name = model.partition("/")
        if family not in LIBRARIES or not name:
            raise CoopNetError(f"{model!r} names no model; give timm/NAME, torchvision/NAME, or a model itself")
        architecture = library_backbone(
            family, name, split, branches=branches, classes=classes, gate=gate, example=example, pretrained=pretrained
        )
    else:
        check_model(model)
        other = next((p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32), None)
        if other is not None:
            raise CoopNetError(f"the model has weights of {other}; pass model.float(), and train under torch.autocast")
        architecture = module_backbone(
            model, split, branches=branches, classes=classes, gate=gate, example=example, fresh=fresh
        )
        if fresh is not None:
            _check_fresh(fresh(), architecture.template, classes)
    template = architecture.template
    if weights == "fresh" and template.fresh is None:
        check_computed(template.branch)
    network = build(architecture, seed)
    if isinstance(model, nn.Module) and (own := next(model.parameters(), None)) is not None:
        network.to(own.device)  # a new gate is made on the CPU
    kept = isinstance(model, nn.Module) or pretrained
    with torch.no_grad():
        if kept and network.trunk is not None:
            network.trunk.load_state_dict(template.trunk.state_dict())
            _freeze(network.trunk, template.trunk)
        if weights == "copied":
            _copy_branches(network, template, noise, seed)
    return network


def _check_fresh(model: nn.Module, template: Template, classes: int) -> None:
    """Refuse new models that do not have the tensors of the model."""
    known = template.trunk.state_dict() | template.branch.state_dict()
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    odd = sorted(
        name
        for name, tensor in known.items()
        if not name.startswith(CONSTANT) and (name not in state or state[name].shape != tensor.shape)
    )
    if odd or template.replaced:
        raise CoopNetError(
            f"fresh= has to build the model that is wrapped, and both need {classes} outputs"
            + (f"; {odd[0]} is missing or has another shape" if odd else "")
        )


def _copy_branches(network: CooperativeNetwork, template: Template, noise: float, seed: int) -> None:
    """Give every branch the model's weights, and add noise to all but the first."""
    state = template.branch.state_dict()
    if template.replaced:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{template.classifier}.")}
    for branch in network.branches:
        branch.load_state_dict(state, strict=False)
        _freeze(branch, template.branch)
    perturb(list(network.branches)[1:], noise, seed)


def _freeze(piece: nn.Module, like: nn.Module) -> None:
    """Freeze what is frozen in another piece, and nothing else."""
    for name, parameter in like.named_parameters():
        piece.get_parameter(name).requires_grad_(parameter.requires_grad)
