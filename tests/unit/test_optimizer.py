"""SGD and Adam equal those of `torch.optim`, and continue from a given state."""

from typing import Any

import pytest
import torch
from torch import Tensor

from coopnet.networks.network import Architecture, CooperativeNetwork, build
from coopnet.study.settings import SGD, Adam
from coopnet.training.optimizer import Optimizer


def network() -> CooperativeNetwork:
    """A small network."""
    return build(Architecture("cifar_resnet", 8, "basic", 4, 1, "none", 4), 0)


def give(gradients: list[Tensor], *networks: CooperativeNetwork) -> None:
    """Set these gradients for the parameters of some networks."""
    for one in networks:
        for parameter, gradient in zip(one.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()


def drawn(steps: int) -> list[list[Tensor]]:
    """Random gradients for `network`, for some steps."""
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(p.shape, generator=generator) for p in network().parameters()] for _ in range(steps)]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (SGD(kind="sgd", lr=0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-4)),
        (
            SGD(kind="sgd", lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
        ),
        (Adam(kind="adam", lr=0.01), lambda p: torch.optim.Adam(p, 0.01)),
        (
            Adam(kind="adam", lr=0.01, betas=(0.7, 0.8), weight_decay=0.1),
            lambda p: torch.optim.Adam(p, 0.01, (0.7, 0.8), weight_decay=0.1),
        ),
    ],
)
def test_optimizer_is_torch_optim(options: SGD | Adam, reference: Any) -> None:
    """Three steps with the same gradients, the last at a lower rate, equal those of `torch.optim`."""
    networks = [network() for _ in range(2)]
    ours, theirs = Optimizer(networks[0], options, {}), reference(networks[1].parameters())
    for step, gradients in enumerate(drawn(3)):
        give(gradients, *networks)
        if step == 2:
            ours.set_lr(options.lr / 10)
            theirs.param_groups[0]["lr"] /= 10
        ours.step()
        theirs.step()
    for a, b in zip(*(one.parameters() for one in networks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [SGD(kind="sgd", lr=0.1), Adam(kind="adam", lr=0.01)])
def test_state_is_carried_on(options: SGD | Adam) -> None:
    """A new optimiser with the state of another one continues like it; the given tensors are not changed."""
    one, other = network(), network()
    first = Optimizer(one, options, {})
    *before, last = drawn(3)
    for gradients in before:
        give(gradients, one)
        first.step()
    other.load_state_dict(one.state_dict())
    given = {slot: {name: t.clone() for name, t in tensors.items()} for slot, tensors in first.state.items()}
    second = Optimizer(other, options, given)
    give(last, one, other)
    first.step()
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    for slot, tensors in first.state.items():
        assert all(torch.equal(tensor, second.state[slot][name]) for name, tensor in tensors.items())
        assert not all(torch.equal(tensor, given[slot][name]) for name, tensor in tensors.items())


def test_state_of_another_kind_is_left_out_and_what_is_missing_is_zero() -> None:
    """Adam starts without SGD's momentum, and with zeros for parameters without state."""
    net = network()
    names = dict(net.named_parameters())
    known = "trunk.stem.0.weight"
    given = {
        "momentum_buffer": {name: torch.ones_like(p) for name, p in names.items()},
        "exp_avg": {known: torch.full_like(names[known], 3.0)},
    }
    optimizer_state = Optimizer(net, Adam(kind="adam", lr=0.1), given).state
    assert optimizer_state.keys() == {"exp_avg", "exp_avg_sq", "step"}
    for slot, tensors in optimizer_state.items():
        assert tensors.keys() == names.keys()
        for name, tensor in tensors.items():
            assert tensor.shape == (() if slot == "step" else names[name].shape)
            assert (tensor == (3.0 if (slot, name) == ("exp_avg", known) else 0.0)).all()


def test_parameters_without_a_gradient_stay() -> None:
    """Neither weight decay nor momentum moves a parameter without a gradient; gradients can be deleted."""
    net = network()
    optimizer = Optimizer(net, SGD(kind="sgd", lr=0.1, weight_decay=0.1), {})
    give(drawn(1)[0], net)
    optimizer.step()
    optimizer.clear_gradients()
    assert all(parameter.grad is None for parameter in net.parameters())
    before = [parameter.detach().clone() for parameter in net.parameters()]
    net.branches[0].classifier.bias.grad = torch.ones(4)
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
    assert moved == [name == "branches.0.classifier.bias" for name, _ in net.named_parameters()]


def test_a_learning_rate_on_the_device_is_changed_where_it_lies() -> None:
    """If steps are replayed, the rate is a tensor that the recorded work reads, so it must stay the same tensor."""
    optimizer = Optimizer(network(), SGD(kind="sgd", lr=0.1), {})
    optimizer.lr = recorded = torch.tensor(0.1)
    optimizer.set_lr(0.025)
    assert optimizer.lr is recorded
    assert recorded.item() == pytest.approx(0.025)
