"""Networks of the study by name."""

import re
from numbers import Integral

from coopnet.files.errors import CoopNetError
from coopnet.library.checks import check_seed
from coopnet.networks.network import Architecture, CooperativeNetwork, blocks_per_stage, build


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
    whole = all(isinstance(number, Integral) and int(number) > 0 for number in (branches, classes, width))
    gate = gate or ("learned" if whole and branches > 1 else "none")
    if not whole or gate not in ("learned", "mean", "none") or block not in ("basic", "bottleneck"):
        raise CoopNetError(
            f"branches {branches!r}, classes {classes!r}, width {width!r}, gate {gate!r} and block {block!r} do not "
            "fit: numbers must be 1 or more, gate learned, mean or none, and block basic or bottleneck"
        )
    architecture = Architecture(family, depth, block, width, branches, gate, classes)
    try:
        blocks_per_stage(architecture)
        return build(architecture, seed)
    except ValueError as error:
        raise CoopNetError(str(error)) from error
