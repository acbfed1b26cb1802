"""Saving and loading networks as safetensors and JSON, never as a pickle."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from coopnet import files
from coopnet.files.errors import CoopNetError, Damaged
from coopnet.library import probe
from coopnet.library.checks import check_counts, check_network, check_tensors
from coopnet.library.optimizers import beside, check_own, slots_of, state_of
from coopnet.networks.backbone import Backbone
from coopnet.networks.network import CooperativeNetwork, trainable_parameters
from coopnet.networks.transfer import OptimizerState, TrainedNetwork
from coopnet.runs import checkpoint

RUN = re.compile(r"([^/\s]+)/([^/\s]+)/seed(\d+)")


class Saved(NamedTuple):
    """A network that was loaded.

    Attributes:
        network: in eval mode, on the CPU.
        state: of its optimiser; empty if none was saved.
        record: the JSON record beside it.
    """

    network: CooperativeNetwork
    state: OptimizerState
    record: dict[str, Any]


def save(
    network: CooperativeNetwork,
    folder: str | os.PathLike[str],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    preprocessing: Mapping[str, Sequence[float]] | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a network: `model.safetensors`, `optimizer.safetensors` and `model.json`.

    Args:
        network: one of the study's, or one made by `wrap`.
        folder: created if necessary; files with these names are replaced. The record is written last.
        optimizer: its state is saved too.
        preprocessing: `mean` and `std` per channel of its training images, pixels in 0..1.
        class_names: one name per class, in order.
        image_size: pixels of each side, for networks that accept any size; by default that of `example` of a wrapped
            network, and 32 otherwise.
        facts: further entries of the record, plain values.

    Raises:
        CoopNetError: names or constants that do not fit the network, or a folder that cannot be written.
    """
    check_tensors(network)
    state = {} if optimizer is None else state_of(optimizer, network)
    known = sized(facts, image_size) | ({} if (found := probe.logits(network)) is None else {"logits": found})
    write(TrainedNetwork(network, state), Path(folder), preprocessing, class_names, known)


def sized(facts: Mapping[str, Any] | None, image_size: int | None) -> dict[str, Any]:
    """Entries of a record, with the size of the images added."""
    known = dict(facts or {})
    if image_size is None:
        return known
    check_counts(image_size=image_size)
    return known | {"data": dict(known.get("data") or {}) | {"size": int(image_size)}}


def write(
    trained: TrainedNetwork,
    where: Path,
    preprocessing: Mapping[str, Sequence[float]] | None,
    class_names: Sequence[str] | None,
    facts: Mapping[str, Any],
) -> None:
    """Like `save`, for a network and its optimiser's state by name."""
    record = described(trained.network, preprocessing, class_names, facts)
    digests = checkpoint.write_network(where, trained.network, trained.optimizer_state)
    files.write_json(where / checkpoint.SAVED, record | {"files": digests})


def described(
    network: CooperativeNetwork,
    preprocessing: Mapping[str, Sequence[float]] | None,
    class_names: Sequence[str] | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of a network, without its files.

    Raises:
        CoopNetError: names or constants that do not fit the network.
    """
    check_network(network)
    classes = network.architecture.classes
    if class_names is not None and (len(class_names) != classes or not all(isinstance(n, str) for n in class_names)):
        raise CoopNetError(
            f"{len(class_names)} class names were passed for a network of {classes} classes; pass {classes} strings"
        )
    constants = None
    if preprocessing is not None:
        if not isinstance(preprocessing, Mapping):
            raise CoopNetError("preprocessing is not a mapping; pass {'mean': [...], 'std': [...]}")
        channels = network.architecture.input[0] if isinstance(network.architecture, Backbone) else 3
        try:
            constants = {name: [float(value) for value in preprocessing.get(name, ())] for name in ("mean", "std")}
        except (TypeError, ValueError):  # a single number, or what is no number
            constants = {"mean": [], "std": []}
        mean, std = constants["mean"], constants["std"]
        inside = all(0 <= value <= 1 for value in (*mean, *std)) and all(std)
        if not inside or not len(mean) == len(std) == channels:
            raise CoopNetError(
                f"preprocessing needs mean and std of {channels} numbers each, for pixels in 0..1: mean from 0 to 1, "
                "std above 0 and up to 1"
            )
    data = dict(facts.get("data") or {}) | ({} if class_names is None else {"class_names": list(class_names)})
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    return {
        **facts,
        "architecture": network.architecture.to_dict(),
        "parameters": trainable_parameters(network),
        **({"frozen": frozen} if frozen else {}),
        **({"preprocessing": constants} if constants else {}),
        **({"data": data} if data else {}),
    }


def load(where: str | os.PathLike[str], *, model: nn.Module | None = None) -> CooperativeNetwork:
    """Load a network, in eval mode, on the CPU.

    Args:
        where: a folder written by `save`, `coopnet import` or a run; or a run of the workspace in the current folder,
            or of its run store: `STUDY/EXPERIMENT/seedN`.
        model: for a network around your own model: such a model. Its weights do not matter, but for branches that are
            added later: parameters of modules without `reset_parameters` have its values there.

    Raises:
        CoopNetError: there is no such network, it is damaged, or it was not written by CoopNet.
    """
    return read(where, model=model).network


def load_optimizer(
    where: str | os.PathLike[str], network: CooperativeNetwork, optimizer: torch.optim.Optimizer
) -> None:
    """Load the saved optimiser state of a network into an optimiser, in place.

    The state is momentum and the like. Learning rate and other options stay those of `optimizer`.

    Raises:
        CoopNetError: as for `load`; no state was saved; or the optimiser is of another kind, or of another network.
    """
    check_network(network)
    check_own(optimizer, network)
    state = read(where, network=network).state
    if not state:
        raise CoopNetError(f"no optimiser state was saved in {where}")
    slots = slots_of(optimizer)
    if slots is not None and slots != state.keys():
        raise CoopNetError(
            f"{where} has an optimiser's {', '.join(sorted(state))}, and {type(optimizer).__name__} with these options "
            f"keeps {', '.join(sorted(slots)) or 'nothing'}; pass an optimiser of the saved kind"
        )
    # PyTorch keeps the number of steps, a scalar, on the CPU unless the optimiser is fused or capturable.
    capturable = {
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group.get("fused") or group.get("capturable")
    }
    for name, parameter in network.named_parameters():
        mine = {slot: tensors[name] for slot, tensors in state.items() if name in tensors}
        if mine:
            optimizer.state[parameter] = {
                slot: beside(parameter, tensor) if tensor.dim() or parameter in capturable else tensor.clone()
                for slot, tensor in mine.items()
            }


def read(
    where: str | os.PathLike[str], *, model: nn.Module | None = None, network: CooperativeNetwork | None = None
) -> Saved:
    """Like `load`, with everything beside the network; `network` is one of the same architecture, if available."""
    try:
        folder, record = _found(where)
        if not isinstance(record, dict) or "architecture" not in record or "files" not in record:
            raise CoopNetError(f"{folder} has no record of a network; give a folder written by coopnet.save")
        saved = record["architecture"]
        if network is not None and isinstance(saved, Mapping):
            mine = network.architecture.to_dict()
            other = [name for name in mine if saved.get(name) != mine[name]]
            if other:
                raise CoopNetError(
                    f"{folder} holds a network with {other[0]} {saved.get(other[0])}, not {mine[other[0]]}; "
                    "pass the network that was saved there"
                )
        trained = checkpoint.read(folder, record, model=model, like=None if network is None else network.architecture)
    except Damaged as error:
        if not (Path(where) / checkpoint.SAVED).is_file():  # a run can be made again
            raise
        raise CoopNetError(f"{error.fact}; restore it from a copy, or save the network again (coopnet.save)") from error
    network, frozen = trained.network.eval(), record.get("frozen")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not isinstance(frozen, list) or name not in frozen)
    if probe.differ(record.get("logits"), probe.logits(network)):
        raise CoopNetError(
            f"the model that was passed has the tensors of the one in {folder}, and computes something else; pass a "
            "model with the same settings, such as activations and strides"
        )
    return Saved(network, trained.optimizer_state, record)


def _found(where: str | os.PathLike[str]) -> tuple[Path, Any]:
    """Find the folder and record of a network."""
    folder = Path(where)
    for record in (checkpoint.SAVED, checkpoint.RECORD):
        if (folder / record).is_file():
            return folder, files.read_sealed(folder / record, files.LARGEST_RECORD)
    named = RUN.fullmatch(str(where))
    if folder.exists() or named is None:
        raise CoopNetError(
            f"{where} is not a CoopNet network: it has no {checkpoint.SAVED}; give a folder that coopnet.save "
            "wrote, or a run as STUDY/EXPERIMENT/seedN"
        )
    from coopnet import study
    from coopnet.runs import sources, store
    from coopnet.runs.workspace import Workspace

    root = Path()
    if not (root / "params.yaml").is_file():
        raise CoopNetError(f"{where} is neither a folder nor a run: there is no params.yaml in {root.absolute()}")
    plan = study.load(root, study.checked_name(named[1]))
    run = plan.run(named[2], int(named[3]))
    return sources.checkpoint_of(Workspace(root), plan, run, store.Store(store.default_place(root)))
