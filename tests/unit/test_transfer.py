"""Growing a network: what is kept, what is new, and which starts are exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coopnet.networks.network import Architecture, CooperativeNetwork, Outputs, build
from coopnet.networks.transfer import TrainedNetwork, expand

EXACT = 1e-6


def trained(branches: int, seed: int = 0, depth: int = 8, gate: str = "learned", width: int = 4) -> TrainedNetwork:
    """A network whose BatchNorm and biases differ from their initial values, as after training, and its momentum."""
    network = build(Architecture("cifar_resnet", depth, "basic", width, branches, gate, 10), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(seed + 7)
            elif name != "gate.log_prior" and tensor.dim() == 1:
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator).abs()
    momentum = {n: torch.randn(p.shape, generator=generator) for n, p in network.named_parameters()}
    return TrainedNetwork(network, {"momentum_buffer": momentum})


@torch.no_grad()
def outputs(network: CooperativeNetwork, images: Tensor) -> Outputs:
    """Outputs in eval mode, float32."""
    result: Outputs = network.eval()(images)
    return result


def images(seed: int, count: int = 6) -> Tensor:
    """Random normalised images."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["masked", "split"]),
    depth=st.sampled_from([8, 14]),
    before=st.integers(1, 4),
    new=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    gate=st.sampled_from(["learned", "none"]),
)
def test_exact_starts_compute_what_the_parent_computes(
    kind: str, depth: int, before: int, new: int, seed: int, gate: str
) -> None:
    """`masked` and noiseless `split`: max|Δ logits| ≤ 1e-6 · max|logit|, same top-1 if the margin exceeds that."""
    parent = trained(before, seed, depth, gate if before == 1 else "learned")
    grown = expand(parent, before + new, kind=kind, seed=seed, noise=0.0)
    batch = images(seed)
    old, now = outputs(parent.network, batch).ensemble, outputs(grown.network, batch).ensemble
    tolerance = EXACT * old.abs().max()
    assert (now - old).abs().max() <= tolerance
    best = old.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 2 * tolerance
    assert torch.equal(now.argmax(1)[clear], old.argmax(1)[clear])


def test_exact_starts_can_follow_each_other() -> None:
    """Growing a grown network also keeps its function: priors of copies of copies add up."""
    parent = trained(2)
    twice = expand(expand(parent, 3, kind="split", seed=1), 6, kind="split", seed=2, donors=[1, 3, 3])
    masked = expand(twice, 7, kind="masked", seed=3)
    batch = images(0)
    old = outputs(parent.network, batch).ensemble
    for grown in (twice, masked):
        assert (outputs(grown.network, batch).ensemble - old).abs().max() <= EXACT * old.abs().max()


def test_split_shares_the_weight_of_its_donor() -> None:
    """A branch that exists k times has log-prior −log k in each copy, and the copies' weights add up to its own."""
    parent = trained(3)
    grown = expand(parent, 5, kind="split", seed=0, donors=[1, 1])
    assert grown.network.gate is not None
    expected = torch.tensor([-math.log(3), 0, 0, -math.log(3), -math.log(3)])
    torch.testing.assert_close(grown.network.gate.log_prior, expected)
    batch = images(1)
    old, now = outputs(parent.network, batch).gate, outputs(grown.network, batch).gate
    torch.testing.assert_close(now[:, [0, 3, 4]].sum(1), old[:, 0])


def test_zero_output_shrinks_all_logits_by_one_factor_and_zero_pad_does_not() -> None:
    """Zero classifiers keep top-1 and top-5; fresh ones behind zero gate rows change the function."""
    parent, batch = trained(3), images(2)
    old = outputs(parent.network, batch).ensemble
    shrunk = outputs(expand(parent, 5, kind="zero_output", seed=0).network, batch).ensemble
    factor = shrunk / old
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-4, atol=0)
    assert (factor < 1).all()
    padded = outputs(expand(parent, 5, kind="zero_pad", seed=0).network, batch).ensemble
    ratio = padded / old
    assert (ratio - ratio[:, :1]).abs().max() > 1e-3


def test_zero_gate_rows_never_learn() -> None:
    """ReLU has no gradient at 0: the rows that `zero_pad` adds get none, the old ones do."""
    grown = expand(trained(3), 5, kind="zero_pad", seed=0).network.train()
    grown(images(3, 16)).ensemble.square().sum().backward()
    assert grown.gate is not None
    gradient = grown.gate.linear.weight.grad
    assert (gradient[3:] == 0).all()
    assert gradient[:3].abs().sum() > 0


@pytest.mark.parametrize("kind", ["zero_pad", "zero_output", "masked", "split"])
def test_weights_statistics_counters_and_momentum_are_carried(kind: str) -> None:
    """Every inherited tensor and its momentum equal the parent's; momentum of new tensors is zero."""
    parent = trained(3)
    grown = expand(parent, 5, kind=kind, seed=9)
    old, now = parent.network.state_dict(), grown.network.state_dict()
    for name in old:
        rows = slice(0, 3) if name.startswith("gate") and old[name].dim() else slice(None)
        if name != "gate.log_prior" and old[name].dim():
            assert torch.equal(now[name][rows], old[name]), name
        elif name != "gate.log_prior":
            assert torch.equal(now[name], old[name]), name
    momentum, before = grown.optimizer_state["momentum_buffer"], parent.optimizer_state["momentum_buffer"]
    assert momentum.keys() == dict(grown.network.named_parameters()).keys()
    assert torch.equal(momentum["trunk.stem.0.weight"], before["trunk.stem.0.weight"])
    assert torch.equal(momentum["gate.linear.weight"][:3], before["gate.linear.weight"])
    new = momentum["branches.3.classifier.weight"]
    if kind == "split":
        assert torch.equal(new, before["branches.0.classifier.weight"])
        assert torch.equal(momentum["gate.linear.weight"][3], before["gate.linear.weight"][0])
    else:
        assert (new == 0).all()
        assert (momentum["gate.linear.weight"][3:] == 0).all()


@pytest.mark.parametrize("branches", [1, 3])
def test_state_of_adam_is_carried(branches: int) -> None:
    """Step counts stay scalars, inherited for copies and 0 for new tensors, and so are the moments."""
    network = trained(branches, gate="none" if branches == 1 else "learned").network
    names = dict(network.named_parameters())
    moments = {slot: {n: torch.rand_like(p) for n, p in names.items()} for slot in ("exp_avg", "exp_avg_sq")}
    parent = TrainedNetwork(network, moments | {"step": {name: torch.tensor(7.0) for name in names}})
    grown = expand(parent, 5, kind="masked", seed=0)
    parameters = dict(grown.network.named_parameters())
    assert grown.optimizer_state.keys() == parent.optimizer_state.keys()
    for slot, tensors in grown.optimizer_state.items():
        assert tensors.keys() == parameters.keys()
        for name, tensor in tensors.items():
            assert tensor.shape == (() if slot == "step" else parameters[name].shape), (slot, name)
            copied = name in names and not name.startswith("gate")
            if copied:
                assert torch.equal(tensor, parent.optimizer_state[slot][name]), (slot, name)
            elif not name.startswith("gate"):
                assert (tensor == 0).all(), (slot, name)


def test_noise_moves_copies_by_sigma_and_leaves_donors_alone() -> None:
    """σ is in units of each tensor's standard deviation; only convolutions and classifiers of copies move."""
    parent = trained(3, width=16)
    grown = expand(parent, 4, kind="split", seed=0, donors=[2], noise=0.3)
    old, now = parent.network.state_dict(), grown.network.state_dict()
    name = "stage.0.conv2.weight"
    moved = now[f"branches.3.{name}"] - old[f"branches.1.{name}"]
    assert moved.std().item() == pytest.approx(0.3 * old[f"branches.1.{name}"].std().item(), rel=0.03)
    assert torch.equal(now[f"branches.1.{name}"], old[f"branches.1.{name}"])
    assert torch.equal(now["branches.3.stage.0.bn1.weight"], old["branches.1.stage.0.bn1.weight"])
    assert not torch.equal(now["branches.3.classifier.weight"], old["branches.1.classifier.weight"])
    other = expand(parent, 4, kind="split", seed=1, donors=[2], noise=0.3).network.state_dict()
    assert not torch.equal(other[f"branches.3.{name}"], now[f"branches.3.{name}"])


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("kind", ["zero_pad", "zero_output", "masked", "split"])
def test_parent_is_left_untouched(kind: str, branches: int) -> None:
    """A transfer does not change its parent's weights and optimiser state, and shares no memory with it."""
    parent = trained(branches, gate="none" if branches == 1 else "learned")

    def everything(network: TrainedNetwork) -> dict[str, Tensor]:
        momentum = {
            f"momentum of {name}": tensor for name, tensor in network.optimizer_state["momentum_buffer"].items()
        }
        return network.network.state_dict() | momentum

    before = {name: tensor.clone() for name, tensor in everything(parent).items()}
    grown = expand(parent, 5, kind=kind, seed=0, noise=1.0 if kind == "split" else 0.0)
    for tensor in everything(grown).values():
        tensor.fill_(7)
    after = everything(parent)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


@pytest.mark.parametrize(
    ("branches", "options"),
    [
        (3, {"kind": "split"}),
        (5, {"kind": "grow"}),
        (5, {"kind": "split", "donors": [1]}),
        (5, {"kind": "split", "donors": [0, 1]}),
        (5, {"kind": "split", "donors": [1, 4]}),
    ],
)
def test_what_does_not_fit_is_refused(branches: int, options: dict[str, object]) -> None:
    """Fewer branches, unknown kinds and missing donors are refused."""
    with pytest.raises(ValueError, match=r"grow|start|donors"):
        expand(trained(3), branches, seed=0, **options)  # type: ignore[arg-type]
