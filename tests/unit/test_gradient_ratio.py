"""A learning rate per module: the factors follow the rule, and the optimiser uses them one step later."""

import math

import pytest
import torch
from pydantic import TypeAdapter

from coopnet.networks.network import Architecture, CooperativeNetwork, build
from coopnet.study.settings import SGD, Adam, GradientRatio
from coopnet.training.gradient_ratio import ModuleRates, modules
from coopnet.training.optimizer import Optimizer
from test_backbone import wrapped

CPU = torch.device("cpu")


def network(**changes: object) -> CooperativeNetwork:
    """A small network of two branches."""
    base = {"family": "cifar_resnet", "depth": 8, "block": "basic", "width": 2, "branches": 2, "gate": "learned"}
    return build(Architecture(**(base | {"classes": 3} | changes)), 0)  # type: ignore[arg-type]


def give_gradients(net: CooperativeNetwork, sizes: dict[str, float], rest: float = 1.0) -> None:
    """Set a constant gradient for every parameter: that of its module in `sizes`, with alternating signs."""
    for name, parameter in net.named_parameters():
        signs = torch.ones(parameter.numel())
        signs[::2] = -1
        parameter.grad = (sizes.get(name.rpartition(".")[0], rest) * signs).view_as(parameter)


def factors(rates: ModuleRates) -> dict[str, float]:
    """By module."""
    return dict(zip(rates.modules, rates.factors.tolist(), strict=True))


def test_modules_are_in_the_order_of_the_rule() -> None:
    """Stem, shared stages, last stage of branch 1 … B, gate linear, gate BatchNorm, classifier 1 … B."""
    names = list(modules(network()))
    kinds = ["stem" if "stem" in n else "stages" if ".stages." in n else n[:16] if ".stage." in n else n for n in names]
    assert list(dict.fromkeys(kinds)) == [
        "stem",
        "stages",
        "branches.0.stage",
        "branches.1.stage",
        "gate.linear",
        "gate.norm",
        "branches.0.classifier",
        "branches.1.classifier",
    ]
    covered = [parameter for parameters in modules(network()).values() for parameter in parameters]
    assert sorted(covered) == sorted(name for name, _ in network().named_parameters())


@pytest.mark.parametrize("kind", ["convolutional", "tokens"])
def test_last_module_of_any_model_is_its_last_layer(kind: str) -> None:
    """The order is trunk, rest of the branches, gate, and the layers that compute the logits, for any model."""
    net = wrapped(kind, 1, 0, branches=2)
    last = {"convolutional": "fc", "tokens": "head"}[kind]
    names = list(modules(net))
    assert names[-4:] == ["gate.linear", "gate.norm", f"branches.0.{last}", f"branches.1.{last}"]
    groups = [0 if name.startswith("trunk") else 1 for name in names[:-4]]
    assert groups == sorted(groups)
    assert {0, 1} == set(groups)
    covered = [parameter for parameters in modules(net).values() for parameter in parameters]
    assert sorted(covered) == sorted(name for name, _ in net.named_parameters())


def test_factors_of_a_hand_computed_example() -> None:
    """clip(g_last / g, 0.1, 20): 2/4, 2/0.01 → 20, 2/100 → 0.1, 2/0 → 20; the last module keeps 1."""
    net = network()
    rates = ModuleRates(net, GradientRatio(), CPU)
    last = "branches.1.classifier"
    give_gradients(
        net, {last: 2.0, "trunk.stem.0": 4.0, "trunk.stem.1": 0.01, "gate.linear": 100.0, "gate.norm": 0.0}, rest=2.0
    )
    rates.update()
    made = factors(rates)
    assert made["trunk.stem.0"] == pytest.approx(0.5)
    assert made["trunk.stem.1"] == 20
    assert made["gate.linear"] == pytest.approx(0.1)
    assert made["gate.norm"] == 20
    assert made[last] == 1
    assert made["branches.0.classifier"] == 1


def test_ratio_that_is_no_number_is_one() -> None:
    """The ratio 0/0 occurs if neither a module nor the last one has a gradient."""
    net = network()
    rates = ModuleRates(net, GradientRatio(), CPU)
    give_gradients(net, {"branches.1.classifier": 0.0, "gate.norm": 0.0}, rest=1.0)
    rates.update()
    assert factors(rates)["gate.norm"] == 1
    assert factors(rates)["gate.linear"] == pytest.approx(0.1)


def test_mean_is_over_all_elements_of_a_module() -> None:
    """Weight and bias of a module count by their sizes: 24 weights at 1 and 3 biases at 10 have mean 2."""
    net = network()
    rates = ModuleRates(net, GradientRatio(), CPU)
    give_gradients(net, {}, rest=1.0)
    net.branches[0].classifier.bias.grad = torch.full((3,), 10.0)
    rates.update()
    assert factors(rates)["branches.0.classifier"] == pytest.approx(27 / (24 + 30))


def test_updated_every_kth_step_and_smoothed() -> None:
    """With k = 2 the factors change after steps 2 and 4; f ← s·f + (1 − s)·ratio."""
    net = network()
    rates = ModuleRates(net, GradientRatio(every=2, smoothing=0.75), CPU)
    seen = []
    for _ in range(4):
        give_gradients(net, {"trunk.stem.0": 0.5})
        rates.update()
        seen.append(factors(rates)["trunk.stem.0"])
    assert seen == pytest.approx([1, 0.75 * 1 + 0.25 * 2, 1.25, 0.75 * 1.25 + 0.25 * 2])


def test_factors_are_used_from_the_next_step() -> None:
    """A step moves each module by its rate before the step; with plain SGD by lr · factor · gradient exactly."""
    net = network()
    rates = ModuleRates(net, GradientRatio(), CPU)
    optimizer = Optimizer(net, SGD(kind="sgd", lr=0.5, momentum=0, weight_decay=0), {}, rates)
    weight = net.trunk.stem[0].weight  # type: ignore[union-attr, index]
    moves = []
    for _ in range(3):
        give_gradients(net, {"trunk.stem.0": 0.25})
        before = weight.detach().clone()  # type: ignore[operator]
        optimizer.step()
        moves.append((weight.detach() - before).abs().mean().item())  # type: ignore[operator]
    assert moves == pytest.approx([0.5 * 0.25, 0.5 * 4 * 0.25, 0.5 * 4 * 0.25])


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_factors_of_one_change_nothing(kind: str) -> None:
    """If all gradients are equal, the factors are 1, and updates per module equal updates of everything at once."""
    options = TypeAdapter(SGD | Adam).validate_python({"kind": kind, "lr": 0.1})
    nets = [network(), network()]
    optimizers = [
        Optimizer(nets[0], options, {}, ModuleRates(nets[0], GradientRatio(), CPU)),
        Optimizer(nets[1], options, {}),
    ]
    for _ in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            give_gradients(net, {})
            optimizer.step()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b)


def test_history_has_the_mean_of_the_factors_used_in_an_epoch() -> None:
    """Three steps that use 1, 4 and 4 have mean 3; the next epoch starts from zero."""
    net = network()
    rates = ModuleRates(net, GradientRatio(), CPU)
    for _ in range(3):
        give_gradients(net, {"trunk.stem.0": 0.25})
        rates.update()
    assert rates.row(3)["factor_trunk.stem.0"] == pytest.approx(3)
    give_gradients(net, {"trunk.stem.0": 0.25})
    rates.update()
    assert rates.row(1)["factor_trunk.stem.0"] == pytest.approx(4)
    assert not math.isnan(sum(rates.row(1).values()))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_is_kept_is_all_that_is_needed_to_go_on(steps: int) -> None:
    """After an interruption at any step, also between two updates of the factors, the rates continue unchanged."""
    net = network()
    options = GradientRatio(every=3, smoothing=0.5)
    undisturbed, continued = ModuleRates(net, options, CPU), ModuleRates(net, options, CPU)

    def step(rates: ModuleRates, number: int) -> None:
        give_gradients(net, {"trunk.stem.0": 2.0**-number, "gate.linear": 2.0**number})
        rates.update()

    for number in range(steps):
        step(undisturbed, number)
    kept = undisturbed.state()
    continued.restore(kept)
    for number in range(steps, 7):
        step(undisturbed, number)
        step(continued, number)
        assert torch.equal(continued.factors, undisturbed.factors)
    assert continued.row(7) == undisturbed.row(7)
    assert continued.taken == 7
    assert kept["taken"] == steps
    assert not torch.equal(undisturbed.factors, torch.ones(len(undisturbed.factors)))
