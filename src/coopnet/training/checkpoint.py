"""A trained network on disk: weights and optimiser state as safetensors, and a JSON record of what they are.

No file of ours is ever unpickled. A checkpoint folder holds `model.safetensors`, `optimizer.safetensors` and
`model.json`; the record names the architecture and the SHA-256 of both others.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from coopnet import files
from coopnet.errors import CoopNetError
from coopnet.networks.network import Architecture, CooperativeNetwork, build
from coopnet.networks.surgery import Patient, Slots

WEIGHTS, SLOTS, RECORD = "model.safetensors", "optimizer.safetensors", "model.json"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with files.replacing(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors onto the CPU.

    Raises:
        CoopNetError: the file is missing, unreadable or damaged.
    """
    with files.reading_tensors(path):
        return safetensors.torch.load_file(path)


def write_network(folder: Path, network: CooperativeNetwork, slots: Slots) -> dict[str, str]:
    """Write weights and optimiser state; return the SHA-256 of each file by its name."""
    write_tensors(folder / WEIGHTS, network.state_dict())
    flat = {f"{slot}/{name}": tensor for slot, tensors in slots.items() for name, tensor in tensors.items()}
    write_tensors(folder / SLOTS, flat)
    return {name: files.sha256(folder / name) for name in (WEIGHTS, SLOTS)}


def read(folder: Path, record: Mapping[str, Any]) -> Patient:
    """Rebuild a network and its optimiser state.

    Args:
        folder: holds the weights.
        record: what they have to be: `architecture` and `files`.

    Raises:
        CoopNetError: a file is missing, damaged, or not the one that the record names.
    """
    for name in (WEIGHTS, SLOTS):
        if files.sha256(folder / name) != record["files"].get(name):
            raise CoopNetError(
                f"{folder / name} is not the file that {folder / RECORD} names; delete the folder and run again"
            )
    try:
        known = [f.name for f in fields(Architecture) if f.name in record["architecture"]]
        architecture = Architecture(**{name: record["architecture"][name] for name in known})
        network = build(architecture, seed=0)
        network.load_state_dict(read_tensors(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CoopNetError(f"{folder / WEIGHTS} does not fit the architecture of its record: {reason}") from error
    slots: Slots = {}
    for name, tensor in read_tensors(folder / SLOTS).items():
        slot, _, parameter = name.partition("/")
        slots.setdefault(slot, {})[parameter] = tensor
    return Patient(network, slots)
