"""Reading checkpoints of the published ONE implementation.

Source of the layout: github.com/Lan1991Xu/ONE_NeurIPS2018 (`models/cifar/resnet.py`, `cifar_one.py` and
`cifar_baseline.py`), the code of Lan, Zhu and Gong, NeurIPS 2018 (arXiv 1806.04606), and its follow-ups with
other numbers of branches. Its `depth` is misleading: there are (depth − 2)/6 blocks per stage, but from 44 on they
are bottlenecks. So its "ResNet-110" has 18 bottlenecks per stage and is, by its layers, a ResNet-164.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from coopnet import files
from coopnet.data.normalization import LAN2018
from coopnet.files import confined
from coopnet.files.errors import CoopNetError, out_of_memory
from coopnet.networks.network import Architecture, build
from coopnet.networks.tensors import check_count, finite

LAYOUT = "lan2018"

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
WITHOUT = "save the checkpoint without 'optimizer' to import the weights alone"
LISTED = 5  # keys of each kind that an error message lists
LONGEST_KEY = 100  # characters of a key that it shows

LARGEST = 2 * 2**30
"""Most bytes of a checkpoint. The largest network of the papers, with momentum and ten branches, has 0.5 GiB."""

MEMORY, COPIES = 512 * 2**20, 8
"""Memory limit for reading: bytes for PyTorch itself, and copies of the file (its tensors, float32 copies of tensors
in half precision, a network to compare with, and the data that the child process returns)."""

SECONDS = 120
"""Limit of processor time for reading; a file of `LARGEST` takes about 10 s."""


@dataclass(frozen=True)
class Imported:
    """A published network in this project's terms.

    Attributes:
        architecture: the network that the file's keys and shapes describe.
        state: its complete `state_dict`, float32 on the CPU, by this project's names.
        momentum: SGD's momentum by parameter name; None if the file has none.
        preprocessing: per-channel `mean` and `std` with which its images were normalised (pixels in 0..1).
        source: `file` (name), `sha256`, `layout` and, if the file has it, `epoch` (epochs finished).
    """

    architecture: Architecture
    state: dict[str, Tensor]
    momentum: dict[str, Tensor] | None
    preprocessing: dict[str, list[float]]
    source: dict[str, Any]


def read(checkpoint: Path) -> Imported:
    """Read a `.pth.tar` of the published code: a baseline, or a ONE network with any number of branches.

    Nothing in the file is executed (`weights_only=True`). All reading and building is done in a process whose memory is
    limited to `MEMORY` + `COPIES` times the file's size, and its time to `SECONDS`.

    Raises:
        CoopNetError: the file is missing, not safely loadable, too large, or too costly to read; has no `state_dict` or
            another layout; has missing, unexpected or wrongly shaped keys, or numbers that are not finite; or has an
            optimiser that does not belong to the network.
    """
    if not checkpoint.is_file():
        raise CoopNetError(f"{checkpoint} is not a file; give a .pth.tar that the published code saved")
    size = checkpoint.stat().st_size
    if size > LARGEST:
        raise CoopNetError(
            f"{checkpoint} has {size} bytes, more than the {LARGEST} of any checkpoint of the published code; "
            f"save only its 'state_dict', 'optimizer' and 'epoch' to a new file by torch.save"
        )
    memory = MEMORY + COPIES * size
    return _unpacked(confined.run(lambda: _packed(_read(checkpoint)), checkpoint, memory=memory, seconds=SECONDS))


def _packed(imported: Imported) -> list[bytes]:
    """As JSON and safetensors bytes, which cannot contain code."""
    facts = {
        "architecture": imported.architecture.to_dict(),
        "preprocessing": imported.preprocessing,
        "source": imported.source,
    }
    tensors = [imported.state] + ([] if imported.momentum is None else [imported.momentum])
    return [json.dumps(facts).encode(), *map(safetensors.torch.save, tensors)]


def _unpacked(parts: list[bytes]) -> Imported:
    """The inverse of `_packed`."""
    facts, (state, *momentum) = json.loads(parts[0]), map(safetensors.torch.load, parts[1:])
    return Imported(
        architecture=Architecture(**facts["architecture"]),
        state=state,
        momentum=momentum[0] if momentum else None,
        preprocessing=facts["preprocessing"],
        source=facts["source"],
    )


def _read(checkpoint: Path) -> Imported:
    """Do the work of `read`, without its limits."""
    content = _load(checkpoint)
    published = _Published.of(content.get("state_dict"), checkpoint.name)
    architecture = _infer(published)
    try:
        check_count(architecture, len(published.tensors))
    except ValueError as error:
        raise CoopNetError(
            f"{checkpoint} is not a complete checkpoint of the {LAYOUT} layout: {error}; copy or download it again"
        ) from error
    wanted = build(architecture, seed=0).state_dict()
    names = _names(wanted, published)
    _check(published, names, wanted)
    source = {"file": checkpoint.name, "sha256": files.sha256(checkpoint), "layout": LAYOUT}
    if isinstance(content.get("epoch"), int):
        source["epoch"] = content["epoch"]
    return Imported(
        architecture=architecture,
        state=_state(published, names, wanted),
        momentum=_momentum(content.get("optimizer"), published, names),
        preprocessing=LAN2018,
        source=source,
    )


def _load(checkpoint: Path) -> dict[str, Any]:
    """The dictionary in the file, its tensors on the CPU."""
    try:
        with checkpoint.open("rb") as file:  # given the path, PyTorch would guess another format from its name
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged or foreign bytes can fail anywhere in the unpickler, with any type
        if out_of_memory(error):
            raise MemoryError from error
        raise CoopNetError(f"cannot read {checkpoint}: {_reason(error)}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CoopNetError(f"{checkpoint} has no 'state_dict'; give a .pth.tar that the published code saved")
    return content


def _reason(error: Exception) -> str:
    """One line for PyTorch's many; users only need the name of a refused type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    refused = re.search(r"GLOBAL ([\w.]{1,200})", str(error))
    if refused is None:
        return "it is damaged, or is not a PyTorch checkpoint; copy or download it again"
    return (
        f"it holds {refused[1]}, which is not a plain tensor or number, so nothing in it was loaded or run; "
        "if you trust it, save only its 'state_dict', 'optimizer' and 'epoch' to a new file by torch.save"
    )


@dataclass(frozen=True)
class _Published:
    """A published `state_dict` without the prefix that DataParallel adds to its keys."""

    file: str
    prefix: str
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, state: Any, file: str) -> "_Published":
        if not isinstance(state, Mapping) or not state:
            raise CoopNetError(f"the 'state_dict' of {file} is empty or not a dictionary; give a complete checkpoint")
        odd = [str(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
        if odd:
            raise CoopNetError(f"the 'state_dict' of {file} holds {_listed(odd, 'that are not tensors')}; remove them")
        prefix = ""
        while all(key.startswith(f"{prefix}module.") for key in state):
            prefix += "module."
        return cls(file, prefix, {key.removeprefix(prefix): tensor for key, tensor in state.items()})

    def distinct(self, pattern: str) -> set[tuple[str, ...]]:
        """The different groups with which `pattern` matches the start of a key."""
        return {match.groups() for match in map(re.compile(pattern).match, self.tensors) if match}

    def size(self, pattern: str) -> int:
        """Most common first dimension of the tensors whose whole key matches; 1 if there are none.

        The most common one, so that a single wrong tensor is reported by itself and not as a different network. If
        there are none, those keys are reported as missing.
        """
        found = [tensor for key, tensor in self.tensors.items() if re.fullmatch(pattern, key)]
        return mode([len(tensor) for tensor in found if tensor.dim() and len(tensor)] or [1])


def _infer(published: _Published) -> Architecture:
    """The architecture that keys and shapes describe; `_check` tests whether all of them fit it."""
    branches = len(published.distinct(r"(?:layer3|classi?fier3)_(\d+)\."))
    if not branches and not published.distinct(r"(layer3|fc)\."):
        raise CoopNetError(
            f"{published.file} is not of the {LAYOUT} layout: it has neither branches layer3_1, layer3_2, … "
            f"nor a baseline's layer3 and fc; it begins with {_listed(published.tensors, 'keys')}"
        )
    gated = branches > 1 or published.distinct(r"(control_v1|bn_v1)\.")
    blocks = sorted(stage for stage, _ in published.distinct(r"(layer\d(?:_\d+)?)\.(\d+)\."))
    block = "bottleneck" if published.distinct(r"layer.*\.(conv3)\.") else "basic"
    return Architecture(
        family="cifar_resnet",
        depth=3 * (3 if block == "bottleneck" else 2) * max(map(blocks.count, blocks), default=1) + 2,
        block=block,
        width=published.size(r"conv1\.weight|bn1\.(weight|bias|running_mean|running_var)"),
        branches=max(branches, 1),
        gate="learned" if gated else "none",
        classes=published.size(r"(fc|classi?fier3_\d+)\.(weight|bias)"),
    )


def _names(wanted: Iterable[str], published: _Published) -> dict[str, str]:
    """Our name → published name, for every tensor that both networks have (theirs has no log-prior)."""
    numbered = bool(published.distinct(r"(?:layer3|classi?fier3)_(\d+)\."))
    # The published code spells it without the second i; follow-ups have corrected that.
    classifier = "classifier3" if published.distinct(r"(classifier3)_") else "classfier3"
    return {
        name: _published_name(name, classifier if numbered else None) for name in wanted if name != "gate.log_prior"
    }


def _published_name(name: str, classifier: str | None) -> str:
    """The published name of our tensor `name`.

    Args:
        name: a key of our `state_dict`.
        classifier: how the file spells numbered branches' classifiers; None for a baseline (`layer3`, `fc`).
    """
    match name.replace(".shortcut.", ".downsample.").split("."):
        case ["trunk", "stem", index, *rest]:
            module = "conv1" if index == "0" else "bn1"
        case ["trunk", "stages", index, *rest]:
            module = f"layer{int(index) + 1}"
        case ["branches", index, "stage", *rest]:
            module = f"layer3_{int(index) + 1}" if classifier else "layer3"
        case ["branches", index, "classifier", *rest]:
            module = f"{classifier}_{int(index) + 1}" if classifier else "fc"
        case ["gate", "linear" | "norm" as part, *rest]:
            module = "control_v1" if part == "linear" else "bn_v1"
        case _:
            raise ValueError(f"{name} has no counterpart in the {LAYOUT} layout")
    return ".".join([module, *rest])


def _check(published: _Published, names: Mapping[str, str], wanted: Mapping[str, Tensor]) -> None:
    """Refuse a file whose keys, shapes or number types do not match the network that they describe."""
    prefix, tensors = published.prefix, published.tensors
    expected = {theirs: wanted[ours] for ours, theirs in names.items()}
    missing = [prefix + key for key in expected if key not in tensors and not _is_counter(key)]
    unexpected = [prefix + key for key in tensors if key not in expected]
    misshapen = [
        f"{prefix}{key} is {_described(tensors[key])} instead of {_described(like)}"
        for key, like in expected.items()
        if key in tensors and _described(tensors[key]) != _described(like)
    ]
    endless = [prefix + key for key, tensor in tensors.items() if not finite(tensor)]
    kinds = (
        (missing, "missing"),
        (unexpected, "unexpected"),
        (misshapen, "of the wrong shape"),
        (endless, "with NaN or infinity"),
    )
    complaints = [_listed(keys, kind) for keys, kind in kinds if keys]
    if complaints:
        raise CoopNetError(
            f"{published.file} does not fit the {LAYOUT} layout: {'; '.join(complaints)}; "
            "give a checkpoint of a ResNet or ONE network that the published code saved"
        )


def _is_counter(key: str) -> bool:
    """Whether it counts BatchNorm's batches; PyTorch before 0.4.1 had no such key, and no result depends on it."""
    return key.endswith(".num_batches_tracked")


def _described(tensor: Tensor) -> str:
    """Shape, and type of the entries unless they are dense real numbers."""
    if tensor.is_floating_point() and tensor.layout == torch.strided:
        return f"{list(tensor.shape)}"
    return f"{list(tensor.shape)} of {tensor.layout} {tensor.dtype}".replace("torch.", "")


def _listed(keys: Iterable[str], kind: str) -> str:
    """`7 missing (a, b, c, d, e, …)`."""
    keys = list(keys)
    shown = [key if len(key) <= LONGEST_KEY else key[:LONGEST_KEY] + "…" for key in keys[:LISTED]]
    shown += ["…"] if len(keys) > LISTED else []
    return f"{len(keys)} {kind} ({', '.join(shown)})"


def _state(published: _Published, names: Mapping[str, str], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our complete `state_dict`: the file's tensors, and zeros for the log-prior and missing counters."""
    state = {}
    for name, like in wanted.items():
        tensor = published.tensors.get(names.get(name, ""))
        state[name] = torch.zeros_like(like) if tensor is None else _own(tensor, like.dtype)
    return state


def _own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy, since tensors of one file may share memory or have any strides."""
    return tensor.detach().to(dtype).clone(memory_format=torch.contiguous_format)


def _momentum(optimizer: Any, published: _Published, names: Mapping[str, str]) -> dict[str, Tensor] | None:
    """SGD's momentum by our parameter names; None if the optimiser is empty or has no momentum.

    The file identifies parameters by their position in `model.parameters()`. It equals their position among the
    parameters in the `state_dict`, since both follow the order of registration. A parameter without momentum among
    others that have it was never updated; it gets zeros, which SGD treats the same.
    """
    if _empty(optimizer):
        return None
    keys = [key for key in published.tensors if not key.endswith(BUFFERS)]
    buffers = _buffers(optimizer, len(keys), published.file)
    if not any(isinstance(buffer, Tensor) for buffer in buffers):
        return None
    ours = {theirs: name for name, theirs in names.items()}
    momentum = {}
    for key, buffer in zip(keys, buffers, strict=True):
        parameter = published.tensors[key]
        buffer = buffer if isinstance(buffer, Tensor) else torch.zeros_like(parameter)
        found, right = _described(buffer), _described(parameter)
        if found != right:
            raise CoopNetError(
                f"the optimiser of {published.file} does not belong to its network: the momentum of "
                f"{published.prefix}{key} is {found} instead of {right}; {WITHOUT}"
            )
        if not finite(buffer):
            raise CoopNetError(
                f"the momentum of {published.prefix}{key} in {published.file} holds NaN or infinity; {WITHOUT}"
            )
        momentum[ours[key]] = _own(buffer, torch.float32)
    return momentum


def _empty(optimizer: Any) -> bool:
    """Whether there is no optimiser, or an empty one: such a file is a checkpoint without momentum."""
    parts = optimizer.values() if isinstance(optimizer, dict) else [optimizer]
    return all(part is None or (isinstance(part, dict | list | tuple) and not part) for part in parts)


def _buffers(optimizer: Any, parameters: int, file: str) -> list[Tensor | None]:
    """Each parameter's momentum, in the order of the parameters."""
    try:
        (group,) = optimizer["param_groups"]
        places = list(group["params"])  # old PyTorch numbers parameters by memory address, new PyTorch by position
        buffers = [optimizer["state"].get(place, {}).get("momentum_buffer") for place in places]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CoopNetError(
            f"the optimiser of {file} is not one group of parameters, as the published code has it; {WITHOUT}"
        ) from error
    if len(buffers) != parameters:
        raise CoopNetError(
            f"the optimiser of {file} has {len(buffers)} parameters, its network {parameters}; {WITHOUT}"
        )
    return buffers
