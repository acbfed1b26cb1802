"""Any model as trunk and branches: a cut model computes the same and grows exactly; impossible cuts are refused."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coopnet.files.errors import CoopNetError
from coopnet.networks.backbone import Backbone, backbone_from_dict, library_backbone, splits, wrap
from coopnet.networks.merge import combine, merge
from coopnet.networks.network import CooperativeNetwork, build
from coopnet.networks.transfer import TrainedNetwork, expand

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
EXACT = 1e-6


class Residual(nn.Module):
    """A block with a skip connection."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))) + self.shortcut(x))


class Convolutional(nn.Module):
    """Blocks of given widths, and a last layer of 7 classes."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8), dropout: float = 0.0):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(a, b) for a, b in itertools.pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


class Tokens(nn.Module):
    """A small transformer over patches, with an unused optional argument and a check of the image size."""

    def __init__(self, depth: int = 3):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, 8))
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 7)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        torch._assert(x.shape[2] == 16, "images of 16×16 pixels")
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        if mask is not None:
            tokens = tokens * mask
        return self.head(self.norm(self.layers(tokens)).mean(1))


def model_of(kind: str, size: int, seed: int) -> tuple[nn.Module, str]:
    """A random model and a split of it."""
    torch.manual_seed(seed)
    if kind == "tokens":
        return Tokens(size + 1), f"layers.{size}"
    widths = tuple(torch.randint(2, 7, (size + 2,)).tolist())
    return Convolutional(widths), f"blocks.{size}"


def wrapped(kind: str, size: int, seed: int, branches: int, gate: str = "learned") -> CooperativeNetwork:
    """A cooperative network from such a model, in a state as after some training."""
    model, split = model_of(kind, size, seed)
    network = wrap(model, split, branches=branches, classes=5, gate=gate, seed=seed, example=IMAGES)
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(IMAGES + 0.1)
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape).abs()
    return network.eval()


def logits(network: nn.Module) -> Tensor:
    """Logits of the ensemble, in eval mode."""
    with torch.no_grad():
        return network.eval()(IMAGES).ensemble


@settings(max_examples=8, deadline=None)
@given(
    kind=st.sampled_from(["convolutional", "tokens"]),
    size=st.integers(1, 2),
    before=st.integers(1, 3),
    new=st.integers(1, 3),
    start=st.sampled_from(["masked", "split"]),
    seed=st.integers(0, 2**16),
)
def test_growth_of_any_model_is_exact(kind: str, size: int, before: int, new: int, start: str, seed: int) -> None:
    """`masked` and noiseless `split`: max|Δ logits| ≤ 1e-6 · max|logit|."""
    parent = wrapped(kind, size, seed, before)
    grown = expand(TrainedNetwork(parent, {}), before + new, kind=start, seed=seed).network
    old = logits(parent)
    assert (logits(grown) - old).abs().max() <= EXACT * old.abs().max()
    assert len(grown.branches) == before + new


@pytest.mark.parametrize(("kind", "averaged"), [("convolutional", (2, 3)), ("tokens", (1,))])
def test_copied_branch_is_the_model(kind: str, averaged: tuple[int, ...]) -> None:
    """Branch 1 computes the same bits as the model; the others differ from it; the model is unchanged."""
    model, split = model_of(kind, 2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = wrap(model, split, branches=3, classes=7, weights="copied", noise=0.2, example=IMAGES).eval()
    with torch.no_grad():
        outputs, expected = network(IMAGES), model.eval()(IMAGES)
    assert torch.equal(outputs.branches[:, 0], expected)
    assert (outputs.branches[:, 1:] - expected[:, None]).abs().amax((0, 2)).min() > 1e-3
    assert network.architecture.averaged == averaged
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_fresh_branches_differ_and_the_trunk_is_kept() -> None:
    """By default each branch starts from its own new weights, on the trunk of the model; a seed reproduces them."""
    model, split = model_of("convolutional", 2, 0)
    network, again = (wrap(model, split, branches=2, classes=5, seed=4, example=IMAGES) for _ in range(2))
    state = network.state_dict()
    assert torch.equal(state["trunk.stem.weight"], model.state_dict()["stem.weight"])
    for name in ("blocks.2.conv1.weight", "fc.weight"):
        assert not torch.equal(state[f"branches.0.{name}"], state[f"branches.1.{name}"])
    assert state["branches.0.fc.weight"].shape == (5, state["branches.0.fc.weight"].shape[1])
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


def test_gate_averages_over_tokens_and_over_space() -> None:
    """The weights are those of a gate that reads the mean over all tokens, or over all positions."""
    for kind, over in (("tokens", 1), ("convolutional", (2, 3))):
        network = wrapped(kind, 1, 1, 3)
        assert network.gate is not None
        with torch.no_grad():
            scores = torch.relu(network.gate.norm(network.gate.linear(network.trunk(IMAGES).mean(over))))
            torch.testing.assert_close(network(IMAGES).gate, scores.softmax(1))


def test_modules_keep_their_own_modes() -> None:
    """Dropout inside a branch is active in training and inactive in eval mode, whatever mode the model was in."""
    torch.manual_seed(0)
    network = wrap(Convolutional(dropout=0.5).eval(), "blocks.1", branches=2, classes=7, example=IMAGES)
    network.train()
    a, b = (network(IMAGES).branches for _ in range(2))
    assert not torch.equal(a, b)
    network.eval()
    assert torch.equal(network(IMAGES).branches, network(IMAGES).branches)


def test_combined_wrapped_networks_are_the_mean_of_their_logits() -> None:
    """With a mean gate, each network on its own trunk."""
    parents = [TrainedNetwork(wrapped("convolutional", 1, 0, 1, "none"), {}) for _ in range(2)]
    with torch.no_grad():
        for parameter in parents[1].network.parameters():
            parameter.mul_(1.1)
    expected = torch.stack([logits(parent.network) for parent in parents]).mean(0)
    joined = combine(parents, gate="mean", gate_rows="uniform", seed=0).network
    assert (logits(joined) - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize(("trunk", "same"), [("refit", True), ("first", False)])
def test_refit_finds_what_a_branch_read_from_its_own_trunk(trunk: str, same: bool) -> None:
    """A network and a copy with reordered channels, merged by refit, have branches that compute the same."""
    torch.manual_seed(0)
    model = Convolutional((5, 6, 8))
    parents = [wrap(model, "blocks", branches=1, classes=7, gate="none", weights="copied", example=IMAGES)]
    parents.append(wrap(model, "blocks", branches=1, classes=7, gate="none", weights="copied", example=IMAGES))
    state = parents[1].state_dict()
    for name in ("trunk.stem.weight", "trunk.stem.bias"):
        state[name].copy_(state[name].flip(0))
    for name in ("branches.0.blocks.0.conv1.weight", "branches.0.blocks.0.shortcut.weight"):
        state[name].copy_(state[name].flip(1))
    assert (logits(parents[0]) - logits(parents[1])).abs().max() < 1e-5
    merged = merge(
        [TrainedNetwork(parent, {}) for parent in parents],
        trunk=trunk,
        reestimate=True,
        gate_rows="uniform",
        seed=0,
        images=lambda: [IMAGES],
        ridge=1e-6,
    ).network
    with torch.no_grad():
        one, two = merged.eval()(IMAGES).branches.unbind(1)
    assert bool((one - two).abs().max() < 0.01 * one.abs().max()) is same


def test_what_transfer_cannot_do_with_any_model_is_refused() -> None:
    """Permutations are defined only for the study's networks; a refit needs convolutions that read the trunk."""
    options = {"reestimate": False, "gate_rows": "uniform", "seed": 0, "images": lambda: [IMAGES], "ridge": 1e-4}
    for kind, trunk, said in (("convolutional", "matched", "residual networks"), ("tokens", "refit", "convolutions")):
        parents = [TrainedNetwork(wrapped(kind, 1, 0, 1), {})] * 2
        with pytest.raises(ValueError, match=said):
            merge(parents, trunk=trunk, **options)  # type: ignore[arg-type]
    parents = [TrainedNetwork(wrapped("convolutional", 1, seed, 1), {}) for seed in (0, 1)]
    with pytest.raises(ValueError, match="parent 2 has tensors"):
        combine(parents, gate="mean", gate_rows="uniform", seed=0)


def test_splits_that_work_are_named() -> None:
    """An error message lists them, and each of them works."""
    model, _ = model_of("convolutional", 2, 0)
    with pytest.raises(
        CoopNetError, match=r"'blocks\.1\.conv2': 2 values are computed before.*work: blocks, blocks\.1"
    ):
        wrap(model, "blocks.1.conv2", branches=2, classes=7, example=IMAGES)
    for name in splits(model):
        wrap(model, name, branches=2, classes=7, example=IMAGES)


class Branching(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Pair(Convolutional):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return logits, logits


class Backwards(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks[0](self.stem(x)).mean((2, 3)).repeat(1, 2)[:, :8])


class Moody(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize(
    ("model", "split", "said"),
    [
        (Convolutional(), "layer9", "no module 'layer9'"),
        (Convolutional(), "stem", "no trunk"),
        (Branching(), "blocks.1", "torch.fx cannot trace"),
        (Pair(), "blocks.1", "several outputs"),
        (Moody(), "blocks.1", "in training than in eval mode"),
        (Backwards(), "blocks.1", "not called"),
    ],
)
def test_what_cannot_be_cut_is_refused(model: nn.Module, split: str, said: str) -> None:
    """The error is one line with the reason."""
    with pytest.raises(CoopNetError, match=said) as refusal:
        wrap(model, split, branches=2, classes=7, example=IMAGES)
    assert "\n" not in str(refusal.value)


def test_models_of_libraries_are_built_by_name() -> None:
    """Each branch has fresh weights, the same ones for the same seed, from a record as from its name."""
    backbone = library_backbone("torchvision", "resnet18", "layer4", branches=2, classes=10, size=32)
    network = build(backbone, seed=1)
    again = build(backbone_from_dict(backbone.to_dict()), seed=1)
    assert isinstance(network.architecture, Backbone)
    assert again.architecture == backbone
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    name = "layer4.0.conv1.weight"
    assert not torch.equal(state[f"branches.0.{name}"], state[f"branches.1.{name}"])
    with pytest.raises(CoopNetError, match="did you mean resnet18"):
        library_backbone("torchvision", "resnet81", "layer4", branches=2, classes=10)
