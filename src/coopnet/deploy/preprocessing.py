"""The preprocessing of a network's images, and the names of its classes: `preprocessing.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coopnet.data import datasets
from coopnet.files.errors import CoopNetError
from coopnet.networks.backbone import Backbone
from coopnet.networks.network import CooperativeNetwork

NAME = "preprocessing.json"


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an image.

    Attributes:
        size: pixels of each side; the largest centred square of an image is scaled to it (`data.fit`).
        mean: of each channel (RGB), in units of the full range.
        std: of each channel (RGB), in units of the full range.
        class_names: of the logits, in order.
        in_graph: whether an exported model normalises its input itself: it then takes uint8 [N, H, W, 3] instead of
            float32 [N, 3, H, W].
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    in_graph: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        takes = "uint8 [N, H, W, 3], RGB" if self.in_graph else "float32 [N, 3, H, W], RGB, (pixel / 255 - mean) / std"
        return facts | {"input": takes, "resize": "largest square in the middle, bicubic with antialiasing"}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or of the wrong type.
        """
        numbers = {name: tuple(float(value) for value in facts[name]) for name in ("mean", "std")}
        names = tuple(str(name) for name in facts["class_names"])
        return cls(int(facts["size"]), numbers["mean"], numbers["std"], names, bool(facts["in_graph"]))

    def check_classes(self, model: str, data: str, names: Sequence[str]) -> None:
        """Refuse data whose classes are not those of a model.

        Raises:
            CoopNetError: the data have another number of classes, or the same ones in another order.
        """
        known = self.class_names
        if len(known) != len(names):
            raise CoopNetError(f"{model} has {len(known)} classes, {data} has {len(names)}")
        if sorted(known) == sorted(names) and known != tuple(names):
            raise CoopNetError(f"{model} has the classes of {data} in another order; name its own data by --data")

    def normalised(self, images: np.ndarray) -> Tensor:
        """Images uint8 [N, H, W, 3] → float32 [N, 3, H, W], as in training."""
        return Normalise(self)(torch.from_numpy(np.array(images, order="C")))


class Normalise(nn.Module):
    """Images uint8 [N, H, W, 3] → float32 [N, 3, H, W], with the arithmetic of training."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise pixels to mean 0 and variance 1."""
        return images.permute(0, 3, 1, 2).float() * self.scale + self.shift


class Whole(nn.Module):
    """A network with normalisation, for images uint8 [N, H, W, 3]."""

    def __init__(self, preprocessing: Preprocessing, network: nn.Module):
        super().__init__()
        self.normalise, self.network = Normalise(preprocessing), network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C]."""
        logits: Tensor = self.network(self.normalise(images))
        return logits


def of_record(network: CooperativeNetwork, record: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of a network, from its record.

    Raises:
        CoopNetError: it does not say how images were normalised, or images are not square with three channels.
    """
    architecture, data = network.architecture, record.get("data") or {}
    side = datasets.side(data)
    shape: tuple[int, ...] = (3, side, side)
    if isinstance(architecture, Backbone):
        shape = architecture.input if "size" not in data else (*architecture.input[:-2], side, side)
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise CoopNetError(
            f"the network takes images of shape {list(shape)}; only networks for square images of three channels can "
            "be exported or classify files; coopnet.branch gives a plain module, for torch.onnx.export"
        )
    constants = record.get("preprocessing")
    if not isinstance(constants, Mapping) or not {"mean", "std"} <= constants.keys():
        raise CoopNetError(
            "the network's record does not say how its images were normalised; save it with "
            "coopnet.save(..., preprocessing={'mean': [...], 'std': [...]})"
        )
    names = datasets.class_names(data)
    if len(names) != architecture.classes:  # trained for other classes than those of its record's dataset
        names = [str(number) for number in range(architecture.classes)]
    mean, std = (tuple(map(float, constants[name])) for name in ("mean", "std"))
    return Preprocessing(shape[1], mean, std, tuple(names))
