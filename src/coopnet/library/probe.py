"""Fixed random images that tell apart models with equal tensors: other activations or strides, for example."""

import copy
import math
from dataclasses import replace

import torch

from coopnet.networks.backbone import OWN, Backbone
from coopnet.networks.network import CooperativeNetwork

TOLERANCE = 1e-3
"""Largest difference of two logits of one model on different machines, relative to the larger one (≥ 1)."""


def logits(network: CooperativeNetwork, like: CooperativeNetwork | None = None) -> list[float] | None:
    """The ensemble's logits [C] for a fixed random image, computed in float32 on the CPU.

    Args:
        network: not changed.
        like: another network, whose model computes with the tensors of `network`; by default its own model does.

    Returns:
        None if the network is not one around a user's own model, or if it cannot be computed.
    """
    architecture, other = network.architecture, (like or network).architecture
    if not (isinstance(architecture, Backbone) and isinstance(other, Backbone) and architecture.family == OWN):
        return None
    try:
        twin = copy.deepcopy(network) if like is None else replace(architecture, template=other.template).copies()
        twin.cpu().eval().load_state_dict({name: tensor.cpu() for name, tensor in network.state_dict().items()})
        images = torch.rand(2, *architecture.input, device="cpu", generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found: list[float] = twin(images).ensemble[0].tolist()
    except Exception:  # a user's own model may take other inputs than images
        return None
    return found if all(map(math.isfinite, found)) else None


def differ(one: object, other: object) -> bool:
    """Whether both are logits of such a network, and not the same up to rounding."""
    known = [value for value in (one, other) if isinstance(value, list) and value]
    if len(known) < 2 or not all(isinstance(number, float) for value in known for number in value):
        return False
    return len(known[0]) != len(known[1]) or any(
        abs(a - b) > TOLERANCE * max(1, abs(a), abs(b)) for a, b in zip(*known, strict=True)
    )
