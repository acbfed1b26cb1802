"""The network computes what the paper defines, and has the size of the published code."""

import pytest
import torch
from torch import nn

from coopnet.networks.network import (
    Architecture,
    CooperativeNetwork,
    Outputs,
    build,
    trainable_parameters,
)


def architecture(**changes: object) -> Architecture:
    """A small CIFAR ResNet, with changes."""
    base = {"family": "cifar_resnet", "depth": 8, "block": "basic", "width": 4, "branches": 3, "gate": "learned"}
    return Architecture(**(base | {"classes": 10} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"depth": 32, "branches": 1, "gate": "none"}, 472_756),
        ({"depth": 32, "branches": 3}, 1_193_189),
        ({"depth": 32, "branches": 5}, 1_913_587),
        ({"depth": 110, "branches": 1, "gate": "none"}, 1_736_564),
        # The published ResNet-110 has 18 bottlenecks per stage: by its layers it is a ResNet-164.
        ({"depth": 164, "block": "bottleneck", "branches": 1, "gate": "none"}, 1_727_284),
    ],
)
def test_parameters_are_those_of_the_published_networks(changes: dict[str, object], count: int) -> None:
    """Trainable parameters for 100 classes equal the published counts."""
    assert trainable_parameters(build(architecture(width=16, classes=100, **changes), 0)) == count


def test_resnet18_splits_after_stage_3() -> None:
    """ResNet-18's trunk has 256 channels at 8×8; its branches begin with 512."""
    network = build(architecture(family="resnet18", depth=18, width=64, branches=2, classes=100), 0).eval()
    with torch.no_grad():
        features = network.trunk(torch.zeros(1, 3, 32, 32))
        outputs = network(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, 256, 8, 8)
    assert network.branches[0].classifier.in_features == 512
    assert outputs.branches.shape == (1, 2, 100)
    # torchvision's ResNet-18 with a 3×3 stem and no pooling has 11,220,132 parameters for 100 classes.
    plain = build(architecture(family="resnet18", depth=18, width=64, branches=1, gate="none", classes=100), 0)
    assert trainable_parameters(plain) == 11_220_132


@pytest.mark.parametrize(("block", "channels"), [("basic", 32), ("bottleneck", 128)])
def test_gate_reads_the_trunk(block: str, channels: int) -> None:
    """The gate's linear layer has as many inputs as the trunk has channels."""
    depth = 8 if block == "basic" else 11
    network = build(architecture(block=block, depth=depth, width=16), 0)
    assert network.gate is not None
    assert network.gate.linear.in_features == channels


def test_ensemble_is_the_gate_weighted_sum() -> None:
    """Each image's ensemble logits are its branches' logits, weighted by its own gate row."""
    outputs = Outputs(torch.randn(4, 3, 10), torch.softmax(torch.randn(4, 3), 1))
    by_hand = torch.stack([sum(outputs.gate[n, b] * outputs.branches[n, b] for b in range(3)) for n in range(4)])
    torch.testing.assert_close(outputs.ensemble, by_hand)


def test_branch_off_has_weight_zero_and_finite_gradients() -> None:
    """A log-prior of −∞ gives exactly weight 0, and every gradient is finite."""
    network = build(architecture(), 0).train()
    assert network.gate is not None
    network.gate.log_prior[1] = -torch.inf
    outputs = network(torch.randn(8, 3, 32, 32))
    assert (outputs.gate[:, 1] == 0).all()
    outputs.ensemble.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert network.branches[0].classifier.weight.grad.abs().sum() > 0


def test_own_trunks_make_branches_independent() -> None:
    """With own trunks no branch depends on another's trunk, and the gate reads the features of all."""
    network = build(architecture(trunk="own"), 0).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        network.trunks[1].stem[1].bias += 1
        after = network(images)
    changed = [not torch.equal(before.branches[:, b], after.branches[:, b]) for b in range(3)]
    assert changed == [False, True, False]
    assert not torch.equal(before.gate, after.gate)
    assert network.gate is not None
    assert network.gate.linear.in_features == 3 * 8


def test_gate_reads_each_trunk_in_the_place_of_its_branch() -> None:
    """Channels of trunk b are inputs b·C to (b + 1)·C of the gate: only these depend on trunk b."""
    network = build(architecture(trunk="own"), 0).eval()
    images, channels = torch.randn(4, 3, 32, 32), network.architecture.trunk_channels
    assert network.gate is not None
    with torch.no_grad():
        weight = network.gate.linear.weight.clone()
        for trunk in range(3):
            network.gate.linear.weight.zero_()
            network.gate.linear.weight[:, trunk * channels : (trunk + 1) * channels] = weight.abs()[:, :channels]
            answers = []
            for other in range(3):
                before = network(images).gate
                network.trunks[other].stem[1].bias += 1
                answers.append(not torch.equal(before, network(images).gate))
                network.trunks[other].stem[1].bias -= 1
            assert answers == [other == trunk for other in range(3)]


@pytest.mark.parametrize("trunk", ["shared", "own"])
def test_mean_gate_weighs_all_branches_alike(trunk: str) -> None:
    """`gate: mean` has no parameters and gives each of three branches weight 1/3."""
    network, gated = (build(architecture(trunk=trunk, gate=gate), 0) for gate in ("mean", "learned"))
    outputs = network(torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(outputs.gate, torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(outputs.ensemble, outputs.branches.mean(dim=1))
    assert gated.gate is not None
    assert trainable_parameters(gated) - trainable_parameters(network) == trainable_parameters(gated.gate)


def test_more_branches_need_a_gate() -> None:
    """Several branches without a gate are refused."""
    with pytest.raises(ValueError, match="need a gate"):
        CooperativeNetwork(architecture(gate="none"))


@pytest.mark.parametrize(("depth", "block"), [(9, "basic"), (2, "basic"), (8, "bottleneck")])
def test_depths_that_do_not_exist_are_refused(depth: int, block: str) -> None:
    """Only 6n+2 (basic) and 9n+2 (bottleneck) exist."""
    with pytest.raises(ValueError, match=f"depth {depth} is not"):
        build(architecture(depth=depth, block=block), 0)


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    """Initialisation depends on the seed only and does not change the global generator."""
    before = torch.get_rng_state()
    first, again, other = (build(architecture(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["trunk.stem.0.weight"], other["trunk.stem.0.weight"])


def test_building_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generators of the GPUs, from which the user's dropout draws, are left as they are."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    build(architecture(), 1)
    assert seeded == []


@pytest.mark.parametrize(("block", "depth"), [("basic", 8), ("bottleneck", 11)])
def test_initialisation_is_he_fan_out(block: str, depth: int) -> None:
    """Convolutions have standard deviation √(2 / (k² · out channels)); BatchNorm is at 1 and 0."""
    network = build(architecture(block=block, depth=depth, width=32), 0)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        expected = (2 / (convolution.kernel_size[0] ** 2 * convolution.out_channels)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert abs(convolution.weight.mean().item()) < 0.1 * expected
    assert sum(one.in_channels != one.out_channels for one in convolutions) >= 5  # for these, fan-in differs
    assert (network.trunk.stem[1].weight == 1).all()
    assert (network.trunk.stem[1].bias == 0).all()


def test_defaults_of_pytorch_change_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the default type nor the default device does; on the meta device a network has shapes alone."""
    expected, devices = build(architecture(), 0).state_dict(), []
    torch.set_default_dtype(torch.float64)
    try:
        found = build(architecture(), 0).state_dict()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    monkeypatch.setattr(Architecture, "initialise", lambda *_: devices.append(torch.get_default_device().type))
    for device in ("cuda:0", "meta"):
        with torch.device(device):
            build(architecture(), 0)
    assert devices == ["cpu", "meta"]


@pytest.mark.parametrize("width", [4, 8])
def test_convolutions_that_a_cpu_gets_wrong_see_plain_order(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """On AVX2 the projections of narrow networks do, in whatever order the network is; not while oneDNN is off."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    one = Architecture("cifar_resnet", 8, "basic", width, 2, "learned", 3)
    network = build(one, 0).eval().to(memory_format=torch.channels_last)
    projection = network.trunk.stages[1][0].shortcut[0]  # type: ignore[union-attr, index]
    seen: list[bool] = []
    projection.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].is_contiguous()))
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        plain_order = network(images)
        with torch.backends.mkldnn.flags(enabled=False):
            network(images)
    assert seen == [width < 8, False]
    assert (projection.weight.stride() == (width, 1, 1, 1)) is (width < 8)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    other = build(one, 0).eval()
    assert not any(module._forward_pre_hooks for module in other.modules())
    with torch.no_grad():
        torch.testing.assert_close(plain_order.branches, other(images).branches)
