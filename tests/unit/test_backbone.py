"""Any model as trunk and branches: a cut model computes the same and grows exactly; impossible cuts are refused."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from coopnet.files.errors import CoopNetError
from coopnet.library.build import wrap
from coopnet.networks import backbone
from coopnet.networks.backbone import Backbone, backbone_from_dict, library_backbone, splits
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


def test_replaced_last_layer_is_fresh_beside_copied_weights() -> None:
    """With another number of classes every branch has the weights of the model and a last layer of its own."""
    model, split = model_of("convolutional", 2, 0)
    state = wrap(model, split, branches=2, classes=5, weights="copied", noise=0.0, seed=1, example=IMAGES).state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith("fc."):
            one, two = (state[f"branches.{b}.{name}"] for b in (0, 1))
            assert one.shape == two.shape == (5, *tensor.shape[1:])
            assert not torch.equal(one, two)
        elif name.startswith("blocks.2"):
            assert all(torch.equal(state[f"branches.{b}.{name}"], tensor) for b in (0, 1))


def test_defaults_are_the_documented_ones() -> None:
    """Noise of 0.1 and seed 0."""
    model, split = model_of("convolutional", 2, 0)
    options: dict[str, Any] = {"branches": 2, "classes": 5, "weights": "copied", "example": IMAGES}
    documented = wrap(model, split, noise=0.1, seed=0, **options).state_dict()
    assert all(torch.equal(one, documented[name]) for name, one in wrap(model, split, **options).state_dict().items())


def test_fresh_convolutions_are_he_fan_out() -> None:
    """They are initialised as the study's, not as PyTorch does by default, whose deviation is 0.4 times as large."""
    network = wrap(Convolutional((4, 64, 64)), "blocks.1", branches=1, classes=7, gate="none", example=IMAGES)
    weight = network.state_dict()["branches.0.blocks.1.conv1.weight"]
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_copies_have_the_weights_of_the_model() -> None:
    """In the trunk and in every branch, under the same architecture."""
    model, split = model_of("convolutional", 2, 0)
    architecture = wrap(model, split, branches=3, classes=7, example=IMAGES).architecture
    assert isinstance(architecture, Backbone)
    copied, expected = architecture.copies(), model.eval()(IMAGES)
    assert copied.architecture is architecture
    assert all(parameter.requires_grad for parameter in copied.parameters())
    torch.testing.assert_close(copied.eval()(IMAGES).branches, expected.unsqueeze(1).expand(-1, 3, -1))


class Sized(Convolutional):
    """Takes images of one size."""

    side = 16

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[2] == self.side, "another size")
        return super().forward(x)


@pytest.mark.parametrize(
    ("side", "declared"),
    [(16, {"image_size": 16}), (16, {"default_cfg": {"input_size": (3, 16, 16)}}), (224, {}), (32, {})],
)
def test_images_are_of_the_size_that_the_model_takes(side: int, declared: dict[str, Any]) -> None:
    """A model declares its size, as in torchvision or in timm, or takes images of 224 or 32 pixels."""
    model = Sized()
    for name, value in ({"side": side} | declared).items():
        setattr(model, name, value)
    assert wrap(model, "blocks.1", branches=2, classes=7).architecture.input == (3, side, side)


def test_other_sizes_need_an_example() -> None:
    """The error names the sizes that were tried, and what the model said."""
    with pytest.raises(CoopNetError, match=r"no images of 3×224×224 or 3×32×32 \(another size\); pass example="):
        wrap(Sized(), "blocks.1", branches=2, classes=7)
    assert torch.is_grad_enabled()


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


def test_refit_needs_zero_padding() -> None:
    """The convolutions are solved for patches that are padded with zeros."""
    parents = []
    for _ in range(2):
        model = Convolutional()
        model.blocks[1].shortcut = nn.Conv2d(6, 8, 1, bias=False, padding_mode="reflect")
        parents.append(TrainedNetwork(wrap(model, "blocks.1", branches=1, classes=7, gate="none", example=IMAGES), {}))
    options = {"reestimate": True, "gate_rows": "uniform", "seed": 0, "images": lambda: [IMAGES], "ridge": 1e-6}
    with pytest.raises(ValueError, match="plain convolutions"):
        merge(parents, trunk="refit", **options)


def test_refit_names_the_layer_that_it_cannot_solve() -> None:
    """Not the copy that a branch makes of the features that it would change."""
    model = Convolutional()
    model.blocks = nn.Sequential(Residual(4, 6), nn.Sequential(nn.ReLU(inplace=True), Residual(6, 8)))
    network = wrap(model, "blocks.1", branches=1, classes=7, gate="none", example=IMAGES)
    with pytest.raises(ValueError, match="not by blocks_1_0"):
        network.architecture.readers(network.branches[0])
    assert "clone" not in str(wrap(Convolutional(), "blocks.1", branches=1, classes=7, gate="none").branches[0].graph)


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


class Hidden(Convolutional):
    """A layer before the last has as many outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, 7)
        self.fc = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.hidden(self.blocks(self.stem(x)).mean((2, 3)))))


class Pointwise(Convolutional):
    """The last layer is a convolution."""

    def __init__(self, kernel: int = 1, groups: int = 1) -> None:
        super().__init__((4, 7, 7))
        self.fc = nn.Conv2d(7, 7, kernel, groups=groups, bias=False, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x))).mean((2, 3))


@pytest.mark.parametrize("model", [Hidden(), Pointwise()])
def test_last_layer_gets_the_number_of_classes(model: nn.Module) -> None:
    """It is the last one with as many outputs as the model, linear or a convolution of 1 × 1, with a bias if it had."""
    network = wrap(model, "blocks.1", branches=2, classes=3, example=IMAGES)
    assert network(IMAGES).branches.shape == (6, 2, 3)
    old, new = model.fc, network.branches[0].fc
    assert tuple(new.weight.shape) == (3, *old.weight.shape[1:])
    assert (new.bias is None) is (old.bias is None)
    assert network.architecture.classifier == "fc"


class Scaled(Convolutional):
    """Parameters of its own are used before the split, after it, and on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.both = (nn.Parameter(torch.full((1,), value)) for value in (2.0, 3.0, 4.0))

    def forward(self, x: Tensor, times: float = 2.0) -> Tensor:
        features = self.blocks(self.stem(x) * self.before * self.both * times)
        return self.fc(features.mean((2, 3)) * self.after * self.both)


def test_parameters_outside_of_modules_go_where_they_are_used() -> None:
    """The trunk has its own, the branches have theirs; one that both use is in both."""
    names = wrap(Scaled(), "blocks.1", branches=1, classes=7, example=IMAGES).state_dict().keys()
    assert {"trunk.before", "branches.0.after", "trunk.both", "branches.0.both"} <= names
    assert not {"trunk.after", "branches.0.before"} & names


def test_a_model_of_one_class_is_allowed() -> None:
    """Its ensemble has one logit per image."""
    assert wrap(Convolutional(), "blocks.1", branches=1, classes=1, example=IMAGES)(IMAGES).ensemble.shape == (6, 1)


@pytest.mark.parametrize(("gate", "branches"), [("none", 2), ("other", 1), ("other", 2)])
def test_a_gate_goes_with_its_number_of_branches(gate: str, branches: int) -> None:
    """Several branches need one of the gates that there are."""
    with pytest.raises(CoopNetError, match=f"gate '{gate}' does not go with {branches} branches"):
        wrap(Convolutional(), "blocks.1", branches=branches, classes=7, gate=gate, example=IMAGES)


class Rectified(Convolutional):
    """One module without parameters is used before and after the split."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.blocks(self.relu(self.stem(x)))).mean((2, 3)))


def test_a_module_without_parameters_may_be_used_on_both_sides() -> None:
    """There is nothing that both sides would have to share."""
    assert wrap(Rectified(), "blocks", branches=2, classes=7, example=IMAGES).trunk is not None


class Last(nn.Module):
    """Feature maps with the channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


MAPS, SIGNAL = nn.Conv2d(3, 8, 2, 2), nn.Conv1d(3, 8, 2, 2)


@pytest.mark.parametrize(
    ("trunk", "image", "channels", "over"),
    [
        (nn.Flatten(), (3, 4, 4), 48, ()),
        (nn.Sequential(MAPS, nn.Flatten(2), Last()), (3, 6, 6), 8, (1,)),
        (nn.Sequential(MAPS, Last()), (3, 8, 8), 8, (1, 2)),
        (MAPS, (3, 8, 8), 8, (2, 3)),
        (MAPS, (3, 16, 16), 8, (2, 3)),
        (nn.Sequential(MAPS, Last()), (3, 16, 16), 8, (1, 2)),
        (MAPS, (3, 16, 32), 8, (2, 3)),
        (nn.Sequential(MAPS, Last()), (3, 8, 16), 8, (1, 2)),
        (SIGNAL, (3, 50), 8, (2,)),
        (nn.Sequential(SIGNAL, Last()), (3, 50), 8, (1,)),
        (nn.Linear(5, 8), (7, 5), 8, (1,)),
        (nn.Sequential(MAPS, nn.LayerNorm([8, 8, 16])), (3, 16, 32), 8, (2, 3)),
        (nn.Sequential(MAPS, Last(), nn.LayerNorm([8, 16, 8])), (3, 16, 32), 8, (1, 2)),
        (nn.Sequential(MAPS, nn.AdaptiveAvgPool2d(1)), (3, 16, 32), 8, (2, 3)),
        (nn.Sequential(MAPS, nn.AdaptiveAvgPool2d((1, None))), (3, 16, 32), 8, (2, 3)),
        (nn.Sequential(MAPS, nn.AdaptiveAvgPool2d(8)), (3, 16, 16), 8, (2, 3)),
        (nn.Sequential(MAPS, nn.AdaptiveAvgPool2d(4), Last()), (3, 16, 32), 8, (1, 2)),
    ],
)
def test_gate_reads_features_of_every_layout(
    trunk: nn.Module, image: tuple[int, ...], channels: int, over: tuple[int, ...]
) -> None:
    """Vectors, tokens, maps and signals with the channels last or first, of any height, or pooled to one size."""
    example = torch.zeros(2, *image)
    assert backbone._layout(trunk, example, trunk(example)) == (channels, over)


class Root(nn.Module):
    """Not a number for inputs below 2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x - 2)


def test_model_that_gives_no_number_for_zeros_is_rebuilt() -> None:
    """A saved network is rebuilt with images of zeros, which need not be among those that its model can take."""
    model = nn.Sequential(Root(), nn.Flatten(), nn.Linear(768, 7))
    network = wrap(model, "2", branches=2, classes=7, example=torch.ones_like(IMAGES) + 2)
    assert backbone_from_dict(network.architecture.to_dict(), model) == network.architecture


def test_advice_leaves_out_the_split_that_was_refused() -> None:
    """It names others."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(1024, 7))
    with pytest.raises(CoopNetError, match=r"cannot be split at '2': .* shape \[6, 2, 2, 16, 16\]; .* work: 1, 3$"):
        wrap(model, "2", branches=2, classes=7, example=IMAGES)


def test_only_splits_into_two_parts_that_learn_are_tried() -> None:
    """Modules down to the third level are tried, except one that starts where its parent starts."""
    deep = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)))
    model = nn.Sequential(nn.AvgPool2d(2), nn.Sequential(nn.Identity(), deep), nn.Flatten(), nn.Linear(4 * 64, 7))
    assert list(backbone._names(model)) == ["0", "1", "1.1", "1.1.1", "2", "3"]
    assert splits(model) == ["1.1.1", "2", "3"]


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


class Again(Convolutional):
    """The stem is used before and after the split."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.blocks = nn.Sequential(Residual(3, 3), Residual(3, 3))
        self.fc = nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(self.blocks(self.stem(x))).mean((2, 3)))


class Map(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean(2).transpose(1, 2))


class First(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:1]


class Noisy(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(torch.randn_like(self.stem(x))).mean((2, 3)))


class Proxied(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if isinstance(x, Tensor) else 2 * x)  # another thing while it is traced


class Silent(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError


class Idle(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        torch.relu(self.fc.bias)
        return super().forward(x)


class Folded(Convolutional):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 14)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (7, 2)).sum(2)


class Moody(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("layer", [{"kernel": 3}, {"groups": 7}])
def test_a_last_layer_of_another_kind_cannot_be_replaced(layer: dict[str, int]) -> None:
    """A model with as many classes is the remedy."""
    with pytest.raises(
        CoopNetError, match="its last layer fc cannot be given 3 outputs; pass a model that has as many"
    ):
        wrap(Pointwise(**layer), "blocks.1", branches=2, classes=3, example=IMAGES)
    wrap(Pointwise(**layer), "blocks.1", branches=2, classes=7, example=IMAGES)


@pytest.mark.parametrize(
    ("model", "split", "said"),
    [
        (Convolutional(), "layer9", "no module 'layer9'"),
        (Convolutional(), "stem", "no trunk"),
        (Branching(), "blocks.1", "torch.fx cannot trace"),
        (Pair(), "blocks.1", r"Pair gives a tuple for 6 images, where logits \[N, classes\] are needed$"),
        (Moody(), "blocks.1", "in training than in eval mode"),
        (Backwards(), "blocks.1", "not called"),
        (Idle(), "stem", "no trunk"),
        (Noisy(), "blocks.1", r"Noisy gives other logits .* even in eval mode; .* such as nn\.Dropout$"),
        (Proxied(), "blocks.1", "its two pieces together compute something else than the model; these would work"),
        (Silent(), "blocks.1", r"Silent does not take images of \[3, 16, 16\] \(ValueError\); pass example="),
        (Folded(), "blocks.1", "no linear or convolutional layer after it makes the 7 logits"),
        (Again(), "blocks", "parameter stem.weight is used both before and after"),
        (Map(), "blocks.1", r"Map gives \[6, 16, 7\] for 6 images, where logits"),
        (First(), "blocks.1", r"First gives \[1, 7\] for 6 images, where logits"),
    ],
)
def test_what_cannot_be_cut_is_refused(model: nn.Module, split: str, said: str) -> None:
    """The error is one line with the reason."""
    with pytest.raises(CoopNetError, match=said) as refusal:
        wrap(model, split, branches=2, classes=7, example=IMAGES)
    assert "\n" not in str(refusal.value)


class Frozen(Convolutional):
    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.blocks[0].bn1.eval()
        return self


class Tied(Convolutional):
    def __init__(self) -> None:
        super().__init__((4, 4, 4))
        self.blocks[1].conv1.weight = self.blocks[0].conv1.weight


def hooked() -> Convolutional:
    """A model that scales its images in a hook."""
    model = Convolutional()
    model.register_forward_pre_hook(lambda _, images: (images[0] / 2,))
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Frozen(), "the model has a train() of its own"),
        (hooked(), "the model has a forward hook"),
        (Tied(), "the parameter blocks.0.conv1.weight is used both before and after it"),
    ],
)
def test_what_the_pieces_would_lose_is_refused(model: nn.Module, said: str) -> None:
    """A train() or a hook of a module that is cut, and weights that both sides share."""
    with pytest.raises(CoopNetError, match=re.escape(f"cannot be split at 'blocks.1': {said}")):
        wrap(model, "blocks.1", branches=2, classes=7, example=IMAGES)


class Normalised(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / 0.2)


def test_a_constant_in_the_forward_is_kept() -> None:
    """torch.fx gives it another name each time that it traces the model."""
    model = Normalised()
    network = wrap(model, "blocks.1", branches=2, classes=7, weights="copied", noise=0.0, example=IMAGES)
    assert torch.equal(network.eval()(IMAGES).branches[:, 0], model.eval()(IMAGES))


class Shifting(Convolutional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.tensor(0.5 if self.training else 1.0))


def test_a_constant_that_depends_on_the_mode_is_refused() -> None:
    """Such a model computes something else in training, although its code is the same."""
    with pytest.raises(CoopNetError, match="something else in training than in eval mode"):
        wrap(Shifting(), "blocks.1", branches=2, classes=7, example=IMAGES)
    network = wrap(Normalised(), "blocks.1", branches=2, classes=7, example=IMAGES, fresh=Normalised)
    assert not torch.equal(*(branch.blocks.get_parameter("1.conv1.weight") for branch in network.branches))


@pytest.mark.parametrize(
    "activation", [nn.Hardswish(inplace=True), nn.LeakyReLU(0.1, inplace=True), nn.Dropout(0.5, inplace=True)]
)
def test_a_branch_that_works_in_place_leaves_the_features_as_they_are(activation: nn.Module) -> None:
    """Every branch and the gate read the trunk's own features, and can be trained."""
    model = Convolutional()
    model.blocks = nn.Sequential(Residual(4, 6), nn.BatchNorm2d(6), nn.Sequential(activation, Residual(6, 8)))
    network = wrap(model, "blocks.2", branches=3, classes=7, example=IMAGES)
    assert all("clone" in [node.target for node in branch.graph.nodes] for branch in network.branches)
    network.train()(IMAGES).ensemble.sum().backward()
    outputs, features = network.eval()(IMAGES), network.features(IMAGES)
    assert network.gate is not None
    assert torch.equal(network.gate(features), outputs.gate)
    for number, branch in enumerate(network.branches):
        assert torch.equal(branch(network.features(IMAGES)[0]), outputs.branches[:, number])


class Two(Convolutional):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.blocks(self.stem(x)).mean((2, 3))
        return self.fc(pooled) + self.other(pooled)


@pytest.mark.parametrize("classes", [1, 5])
def test_only_a_last_layer_that_gives_the_logits_is_replaced(classes: int) -> None:
    """Two layers whose outputs are added cannot have another number of classes, not even 1."""
    with pytest.raises(CoopNetError, match=f"last layer other alone .* model of {classes} classes"):
        wrap(Two(), "blocks.1", branches=2, classes=classes, example=IMAGES)


def test_fresh_weights_are_trained_even_if_those_of_the_model_are_frozen() -> None:
    """The trunk and copied branches stay as frozen as the model."""
    model = Convolutional().requires_grad_(False)
    fresh = wrap(model, "blocks.1", branches=2, classes=7, example=IMAGES)
    assert all(parameter.requires_grad for parameter in fresh.branches.parameters())
    built = wrap(model, "blocks.1", branches=2, classes=7, example=IMAGES, fresh=Convolutional)
    assert all(parameter.requires_grad for parameter in built.branches.parameters())
    copied = wrap(model, "blocks.1", branches=2, classes=7, weights="copied", example=IMAGES)
    for network in (fresh, built, copied):
        assert network.trunk is not None
        assert not any(parameter.requires_grad for parameter in network.trunk.parameters())
    assert not any(parameter.requires_grad for parameter in copied.branches.parameters())


@pytest.mark.parametrize(
    "computed", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.spectral_norm]
)
def test_computed_weights_need_new_models(computed: Callable[[nn.Module], nn.Module]) -> None:
    """No layer can initialise them anew, so all branches would be equal; new models differ."""

    def model() -> nn.Module:
        one = Convolutional()
        computed(one.blocks[1].conv2)
        return one

    with pytest.raises(CoopNetError, match=r"the weights of blocks\.1\.conv2 are computed"):
        wrap(model(), "blocks.1", branches=2, classes=7, example=IMAGES)
    one, other = wrap(model(), "blocks.1", branches=2, classes=7, example=IMAGES, fresh=model).branches
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True) if a.dim() > 1)


def test_models_of_libraries_are_built_by_name() -> None:
    """Each branch has fresh weights, the same ones for the same seed, from a record as from its name."""
    backbone = library_backbone("torchvision", "resnet18", "layer4", branches=2, classes=10, size=32)
    assert backbone.input == (3, 32, 32)
    assert backbone.template.fresh is not None
    network = build(backbone, seed=1)
    again = build(backbone_from_dict(backbone.to_dict()), seed=1)
    assert isinstance(network.architecture, Backbone)
    assert again.architecture == backbone
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    name = "layer4.0.conv1.weight"
    assert not torch.equal(state[f"branches.0.{name}"], state[f"branches.1.{name}"])
    with pytest.raises(CoopNetError, match="torchvision has no model 'fasterrcnn_resnet50_fpn'"):  # a detector
        library_backbone("torchvision", "fasterrcnn_resnet50_fpn", "layer4", branches=2, classes=10)
    with pytest.raises(CoopNetError, match="did you mean resnet18"):
        library_backbone("torchvision", "resnet81", "layer4", branches=2, classes=10)


def test_a_model_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made without pretrained weights, and a seed decides trunk and branches."""
    asked = list[bool]()
    make = backbone.library_model

    def library_model(family: str, name: str, classes: int, *, pretrained: bool = False) -> nn.Module:
        asked.append(pretrained)
        return make(family, name, classes)

    monkeypatch.setattr(backbone, "library_model", library_model)
    options: dict[str, Any] = {"branches": 2, "classes": 3, "seed": 1, "example": torch.zeros(2, 3, 32, 32)}
    one, two = (wrap("torchvision/squeezenet1_1", "features.10", **options) for _ in range(2))
    assert (one.architecture.family, one.architecture.name) == ("torchvision", "squeezenet1_1")
    assert not any(asked)
    state = two.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
    assert library_backbone("torchvision", "squeezenet1_1", "features.10", branches=2, classes=3).input == (3, 224, 224)
    for wrong in ("resnet18", "torchvision/", "keras/resnet18"):
        with pytest.raises(CoopNetError, match="names no model; give timm/NAME"):
            wrap(wrong, "layer4", **options)


def test_record_of_a_wrapped_model_needs_the_same_model() -> None:
    """A network around a user's own model is described by its class; another class is refused."""
    architecture = wrap(Convolutional(), "blocks.1", branches=2, classes=7, example=IMAGES).architecture
    facts = architecture.to_dict()
    assert backbone_from_dict(facts, Convolutional()) == architecture
    with pytest.raises(CoopNetError, match=r"wrapped around a \S+Convolutional, not a \S+Tokens; pass such a model"):
        backbone_from_dict(facts, Tokens())
    script = {**facts, "name": "__main__.Convolutional"}  # saved by the script that defines the class
    assert backbone_from_dict(script, Convolutional()).to_dict() == script
    with pytest.raises(CoopNetError, match=r"wrapped around a __main__\.MyConvolutional, not a"):
        backbone_from_dict({**facts, "name": "__main__.MyConvolutional"}, Convolutional())
    with pytest.raises(CoopNetError, match=r"only its own code can build; load it in Python"):
        backbone_from_dict(facts)
