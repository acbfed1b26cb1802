"""A trained network on disk: weights and optimiser state as safetensors, and a JSON record that describes them.

A checkpoint folder holds `model.safetensors`, `optimizer.safetensors` and `run.json`. The record has the architecture
and the SHA-256 of both other files. No checkpoint of this project is ever unpickled.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from coopnet import files
from coopnet.files.errors import Damaged
from coopnet.networks.network import Architecture, CooperativeNetwork, build
from coopnet.networks.tensors import ShapesAlone, check_count, finite
from coopnet.networks.transfer import OptimizerState, TrainedNetwork
from coopnet.runs.records import RECORD
from coopnet.study.settings import Model

if TYPE_CHECKING:
    from coopnet.networks.backbone import Backbone

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
SAVED = "model.json"
"""The record beside weights that no run of a study made: an imported checkpoint, or the output of `coopnet.save`."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    first = {tensor.data_ptr(): name for name, tensor in reversed(contiguous.items())}
    for name, tensor in contiguous.items():
        if first[tensor.data_ptr()] != name:  # tied weights, which the format does not know
            contiguous[name] = tensor.clone()
    with files.replacing(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors onto the CPU.

    Raises:
        CoopNetError: the file is missing, unreadable or damaged.
    """
    with files.reading_tensors(path):
        return safetensors.torch.load_file(path)


def write_network(folder: Path, network: CooperativeNetwork, optimizer_state: OptimizerState) -> dict[str, str]:
    """Write weights and optimiser state; return the SHA-256 of each file by its name."""
    write_tensors(folder / WEIGHTS, network.state_dict())
    flat = {f"{slot}/{name}": tensor for slot, tensors in optimizer_state.items() for name, tensor in tensors.items()}
    write_tensors(folder / OPTIMIZER, flat)
    return {name: files.sha256(folder / name) for name in (WEIGHTS, OPTIMIZER)}


def read(
    folder: Path,
    record: Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    like: "Architecture | Backbone | None" = None,
) -> TrainedNetwork:
    """Rebuild a network and its optimiser state.

    The arrays take no more memory than the files have, whatever the record says.

    Args:
        folder: holds the weights.
        record: describes them: `architecture` and `files`.
        model: for a network that was built around a user's own model: such a model.
        like: alternatively, an architecture; it is refused if the record has another one.

    Raises:
        CoopNetError: a file is missing, damaged, or not the one in the record; the record is damaged; or the tensors
            do not belong to its architecture or are not finite.
    """
    digests = record.get("files")
    for name in (WEIGHTS, OPTIMIZER):
        files.check_header(folder / name)
        if not isinstance(digests, Mapping) or files.sha256(folder / name) != digests.get(name):
            records = " or ".join(str(folder / one) for one in (RECORD, SAVED) if (folder / one).exists())
            fact = f"{folder / name} is not the file that {records or 'its record'} names"
            raise Damaged(fact, "delete the folder and run again")
    path = folder / WEIGHTS
    tensors = read_tensors(path)
    try:
        network = _filled(_architecture(record["architecture"], model, like), tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = " ".join(message.split())[:300]  # PyTorch may add a location in its own source
        fact = f"{path} does not fit the architecture of its record: {reason}"
        raise Damaged(fact, "delete the folder and make it again") from error
    return TrainedNetwork(network, _optimizer_state(folder / OPTIMIZER, network))


def _architecture(
    written: Any, model: nn.Module | None = None, like: "Architecture | Backbone | None" = None
) -> "Architecture | Backbone":
    """The architecture that a record describes.

    Raises:
        TypeError, ValueError: there is no network with this architecture.
    """
    if not isinstance(written, Mapping):
        raise TypeError(f"it is a {type(written).__name__}, not a mapping")
    if like is not None:
        if like.to_dict() != dict(written):
            raise ValueError(f"it is {dict(written)}, not {like.to_dict()}")
        return like
    architecture: Architecture | Backbone
    if "split" in written:
        from coopnet.networks.backbone import backbone_from_dict

        architecture = backbone_from_dict(dict(written), model)
    else:
        names = {field.name for field in fields(Architecture)}
        architecture = Architecture(**{name: written[name] for name in names & written.keys()})
        if type(architecture.classes) is not int or architecture.classes < 1:
            raise ValueError(f"classes {architecture.classes!r} is not a number of classes")
        values = {name: value for name, value in architecture.to_dict().items() if name != "classes"}
        Model.model_validate(values, strict=True)
    unknown = sorted(written.keys() - architecture.to_dict().keys())
    if unknown:
        raise ValueError(f"it has an entry {unknown[0]!r}, which this version does not know")
    return architecture


def _filled(architecture: "Architecture | Backbone", tensors: Mapping[str, Tensor]) -> CooperativeNetwork:
    """Build the network that these tensors belong to, with copies of them.

    Raises:
        ValueError, RuntimeError: they do not belong to this architecture, or are not finite.
    """
    if isinstance(architecture, Architecture):
        check_count(architecture, len(tensors))
        with torch.device("meta"), ShapesAlone():
            network = build(architecture, seed=0)
    else:
        network = architecture.copies()
    for name, like in network.state_dict().items():
        if name in tensors and tensors[name].dtype != like.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype} instead of {like.dtype}")
    closed = {"gate.log_prior"}  # −∞ for a branch that is switched off
    if not isinstance(architecture, Architecture):  # buffers of the model itself, such as a mask
        closed |= {name for name, like in network.state_dict().items() if not finite(like)}
    # Weights that are tied in a model stay tied if they are copied, and not assigned.
    assign = isinstance(architecture, Architecture)
    network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=assign)
    infinite = [name for name, tensor in tensors.items() if name not in closed and not finite(tensor)]
    if infinite:
        raise ValueError(f"{infinite[0]} holds NaN or infinity")
    return network


def _optimizer_state(path: Path, network: CooperativeNetwork) -> OptimizerState:
    """Read the optimiser state from a file.

    Raises:
        CoopNetError: the file is damaged, or belongs to another network.
    """
    parameters = dict(network.named_parameters())
    optimizer_state: OptimizerState = {}
    for name, tensor in read_tensors(path).items():
        slot, _, parameter = name.partition("/")
        like = parameters.get(parameter)
        if like is None or tensor.shape not in (like.shape, ()) or not tensor.is_floating_point() or not finite(tensor):
            fact = f"{path} does not fit its network: {name} is not the state of one of its parameters, or not finite"
            raise Damaged(fact, "delete the folder and make it again")
        optimizer_state.setdefault(slot, {})[parameter] = tensor
    return optimizer_state
