"""The cooperative network: a trunk, B parallel branches, and a gate that weighs them into an ensemble.

An architecture describes how a trunk and a branch are built: `Architecture` for the study's residual networks,
`coopnet.networks.backbone.Backbone` for any other model.

Source: On-the-Fly Native Ensemble (Lan, Zhu and Gong, NeurIPS 2018, arXiv 1806.04606), section 3. The residual
blocks are those of He et al. 2016 (arXiv 1512.03385), sections 3 and 4.2. With `B = 1` and no gate the network is
the plain ResNet.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coopnet.networks import kernels
from coopnet.networks.streams import side_by_side

if TYPE_CHECKING:
    from coopnet.networks.backbone import Backbone


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a network.

    Attributes:
        family: `cifar_resnet` (three stages) or `resnet18` (four stages, stem for 32×32 images).
        depth: layers of a CIFAR ResNet: 6n+2 with basic blocks, 9n+2 with bottlenecks; 18 for `resnet18`.
        block: `basic` or `bottleneck`.
        width: channels of the first stage; they double with every stage.
        branches: number of branches B.
        gate: `learned`; `mean`: all branches have equal weight; `none` for a single branch that is its own ensemble.
        classes: number of classes C.
        trunk: `shared` by all branches, or `own`: each branch has its own, and the gate reads all of them.
    """

    family: str
    depth: int
    block: str
    width: int
    branches: int
    gate: str
    classes: int
    trunk: str = "shared"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def trunk_channels(self) -> int:
        """Channels of a trunk's features."""
        return EXPANSION[self.block] * self.width * 2 ** (stages(self) - 2)

    @property
    def averaged(self) -> tuple[int, ...]:
        """Dimensions of the features that the gate averages over."""
        return (2, 3)

    @property
    def classifier(self) -> str:
        """Name, within a branch, of the layer that computes the logits."""
        return "classifier"

    def new_trunk(self) -> nn.Module:
        """A trunk with fresh weights; `initialise` completes them."""
        return Trunk(self)

    def new_branch(self) -> nn.Module:
        """A branch with fresh weights; `initialise` completes them."""
        return Branch(self)

    def initialise(self, network: nn.Module) -> None:
        """He initialisation (fan-out) of convolutions, BatchNorm at 1 and 0, linear layers as in PyTorch."""
        initialise_convolutions(network)

    def readers(self, branch: nn.Module) -> list[str]:
        """Names, within a branch, of the convolutions that read the trunk."""
        assert isinstance(branch, Branch)
        return ["stage.0.conv1"] if branch.stage[0].shortcut is None else ["stage.0.conv1", "stage.0.shortcut.0"]


class Outputs(NamedTuple):
    """The outputs for N images: `branches` [N, B, C] logits, `gate` [N, B] weights."""

    branches: Tensor
    gate: Tensor

    @property
    def ensemble(self) -> Tensor:
        """Gate-weighted sum of the branch logits, [N, C] (paper, equation 3)."""
        return (self.gate.unsqueeze(2) * self.branches).sum(dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A projection if the shape changes (option B of He et al.), otherwise None."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = _convolution(inputs, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, channels, H/stride, W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a 1×1 convolution with four times the channels, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = _convolution(inputs, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _convolution(channels, 4 * channels, 1)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(inputs, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, 4·channels, H/stride, W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu(y, inplace=True)


BLOCKS: dict[str, Callable[[int, int, int], nn.Module]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
EXPANSION = {"basic": BasicBlock.expansion, "bottleneck": Bottleneck.expansion}


def blocks_per_stage(architecture: Architecture) -> int:
    """Residual blocks in each stage: n of 6n+2 (basic) or 9n+2 (bottleneck); 2 for ResNet-18.

    Raises:
        ValueError: no network of that family has this depth.
    """
    if architecture.family == "resnet18":
        return 2
    per_block = 2 if architecture.block == "basic" else 3
    n, rest = divmod(architecture.depth - 2, 3 * per_block)
    if n < 1 or rest:
        raise ValueError(
            f"depth {architecture.depth} is not {3 * per_block}n+2 (n ≥ 1), "
            f"as a CIFAR ResNet of {architecture.block} blocks needs"
        )
    return n


def stages(architecture: Architecture) -> int:
    """Number of stages: 3 in a CIFAR ResNet, 4 in ResNet-18. The last one belongs to the branches."""
    return 4 if architecture.family == "resnet18" else 3


def _stage(architecture: Architecture, index: int) -> nn.Sequential:
    """Residual stage `index` (from 0); every stage except the first halves the resolution."""
    build, expansion = BLOCKS[architecture.block], EXPANSION[architecture.block]
    channels = architecture.width * 2**index
    inputs = architecture.width if index == 0 else expansion * channels // 2
    layers = [build(inputs, channels, 1 if index == 0 else 2)]
    layers += [build(expansion * channels, channels, 1) for _ in range(1, blocks_per_stage(architecture))]
    return nn.Sequential(*layers)


class Trunk(nn.Module):
    """Stem and all stages except the last."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        width = architecture.width
        self.stem = nn.Sequential(_convolution(3, width, 3), nn.BatchNorm2d(width))
        self.stages = nn.Sequential(*(_stage(architecture, i) for i in range(stages(architecture) - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] with S pixels a side → features [N, trunk channels, H, W]."""
        return self.stages(F.relu(self.stem(images), inplace=True))


class Branch(nn.Module):
    """The last stage, global average pooling and a linear classifier."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        last = stages(architecture) - 1
        self.stage = _stage(architecture, last)
        features = EXPANSION[architecture.block] * architecture.width * 2**last
        self.classifier = nn.Linear(features, architecture.classes)

    def forward(self, features: Tensor) -> Tensor:
        """[N, trunk channels, H, W] → logits [N, C]."""
        return self.classifier(self.stage(features).mean(dim=(2, 3)))


class Gate(nn.Module):
    """One weight per branch and image: linear → BatchNorm → ReLU → + log-prior → softmax.

    Everything except `log_prior` is the paper's gate as in its published code. After its ReLU every score is ≥ 0, so
    without a log-prior no branch can ever have weight 0. A log-prior of −∞ switches a branch off exactly.
    """

    log_prior: Tensor

    def __init__(self, channels: int, branches: int, averaged: tuple[int, ...] = (2, 3)):
        super().__init__()
        self.averaged = averaged
        self.linear = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)
        self.register_buffer("log_prior", torch.zeros(branches))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of each trunk, e.g. [N, trunk channels, H, W] → weights [N, B] that sum to 1, in float32."""
        # A softmax over scores of a few units loses digits in half precision; full precision costs nothing here.
        with torch.autocast(features[0].device.type, enabled=False):
            pooled = torch.cat([self._average(one.float()) for one in features], dim=1)
            scores = F.relu(self.norm(self.linear(pooled)))
            return torch.softmax(scores + self.log_prior, dim=1)

    def _average(self, features: Tensor) -> Tensor:
        """Average over space or tokens, [N, trunk channels]."""
        return features.mean(dim=self.averaged) if self.averaged else features


class CooperativeNetwork(nn.Module):
    """B branches on one shared trunk, or each on its own trunk, and a gate that weighs them into an ensemble.

    `gate` is a `Gate` only if it is learned; otherwise all branches have equal weight.
    """

    def __init__(self, architecture: "Architecture | Backbone"):
        super().__init__()
        if architecture.gate == "none" and architecture.branches > 1:
            raise ValueError(f"{architecture.branches} branches need a gate")
        self.architecture = architecture
        shared, branches = architecture.trunk == "shared", architecture.branches
        self.trunk = architecture.new_trunk() if shared else None
        self.trunks = nn.ModuleList(() if shared else (architecture.new_trunk() for _ in range(branches)))
        self.branches = nn.ModuleList(architecture.new_branch() for _ in range(branches))
        read = architecture.trunk_channels * (1 if shared else branches)
        self.gate = Gate(read, branches, architecture.averaged) if architecture.gate == "learned" else None
        architecture.initialise(self)
        kernels.avoid(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """Normalised images [N, 3, H, W] → features of each trunk, e.g. [N, trunk channels, H′, W′] each."""
        trunks = list(self.trunks) if self.trunk is None else [self.trunk]
        return side_by_side(trunks, [images] * len(trunks))

    def forward(self, images: Tensor) -> Outputs:
        """Normalised images [N, 3, H, W] → branch logits [N, B, C] and gate weights [N, B]."""
        features = self.features(images)
        read = features if self.trunk is None else features * len(self.branches)
        branches = torch.stack(side_by_side(self.branches, read), dim=1).float()
        if self.gate is None:
            return Outputs(branches, branches.new_full(branches.shape[:2], 1 / len(self.branches)))
        return Outputs(branches, self.gate(features))


def initialise_convolutions(network: nn.Module) -> None:
    """He initialisation (fan-out) of all convolutions (He et al., arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(architecture: "Architecture | Backbone", seed: int) -> CooperativeNetwork:
    """A freshly initialised network in float32, built on the CPU: the same bits for the same seed with any device."""
    with torch.random.fork_rng(devices=[]), usual_defaults():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        return CooperativeNetwork(architecture)


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """New tensors are float32 and on the CPU, or the meta device for shapes alone, whatever the user's defaults are."""
    dtype, meta = torch.get_default_dtype(), torch.get_default_device().type == "meta"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("meta" if meta else "cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def trainable_parameters(network: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
