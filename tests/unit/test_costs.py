"""The cost of a study before it runs: operations equal the counted ones, bytes equal the written ones."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import ROOT
from coopnet import study
from coopnet.networks import flops
from coopnet.networks.network import build
from coopnet.networks.planned import architecture_of
from coopnet.runs import speed
from coopnet.runs.speed import Speed
from coopnet.study import Run, costs

PLAN = study.load(ROOT)
WRAPPED = {"family": "timm", "name": "resnet10t", "split": "layer3", "branches": 1, "gate": "none", "trunk": "shared"}


def small(run: Run) -> Run:
    """The run with the narrowest and shallowest network of its kind."""
    model = run.row.model
    depth = {"resnet18": 18, "cifar_resnet": 8 if model.block == "basic" else 11}[model.family]
    return replace(
        run,
        row=run.row.model_copy(update={"model": model.model_copy(update={"depth": depth, "width": 2})}),
        parents=tuple(small(parent) for parent in run.parents),
    )


def kinds() -> list[str]:
    """Experiments that differ in network, loss or teacher."""
    found: dict[object, str] = {}
    for name, row in PLAN.experiments.items():
        teacher = PLAN.experiments[row.parents[0]].model if row.taught else None
        found.setdefault((repr(row.model), row.training.distillation.kind, repr(teacher), row.data.dataset), name)
    return list(found.values())


@pytest.mark.parametrize("name", kinds())
def test_operations_and_parameters_are_those_that_are_counted(name: str) -> None:
    """The closed form agrees with PyTorch's counter for every kind of network, loss and teacher of the study."""
    run = small(PLAN.run(name, PLAN.seeds(name)[0]))
    row, data = run.row, run.dataset
    known, cost = costs.network(row.model, data.classes, data.size), costs.cost(run)
    assert known is not None
    assert cost is not None
    counted = flops.count(row, run.parents[0].row if row.taught else None, data)
    images = costs.training_images(row, data) * row.training.epochs
    assert (known.layers.parameters, known.layers.flops) == (counted.parameters, counted.inference_flops)
    assert cost.training_flops == counted.step_flops * images
    network = build(architecture_of(row.model, data), seed=0)
    assert known.layers.buffers == sum(-(-buffer.nbytes // 4) for buffer in network.buffers())


def test_networks_of_other_libraries_have_no_closed_form() -> None:
    """They are left out and listed, and not guessed."""
    run = PLAN.run("baseline", 0)
    other = run.row.model.model_validate(WRAPPED)
    assert costs.cost(replace(run, row=run.row.model_copy(update={"model": other}))) is None


def test_time_here_is_that_of_the_nearest_network_measured_alike() -> None:
    """Twice the operations take twice as long; measurements with another precision or size are ignored."""
    run = PLAN.run("one3", 0)
    cost = costs.cost(run)
    assert cost is not None
    near = [Speed("cpu", "", "bf16", 4, cost.image_flops, rate) for rate in (1e9, 2e9, 9e9)]
    far = [Speed("cpu", "", "bf16", 4, 100 * cost.image_flops, 1e15), Speed("cpu", "", "fp32", 4, cost.image_flops, 1)]
    seconds = speed.here(cost, "bf16", 4, [*far, *near])
    assert seconds == (cost.training_flops + cost.testing_flops) / 2e9


def test_estimate_for_an_h100_is_its_rule() -> None:
    """Without operations only launches count. A teacher's convolutions are launched forward only."""
    cost = costs.Cost(1, 0, 0, steps=100, batches=0, convolutions=30, taught=0, disk=0)
    assert math.isclose(speed.h100(cost, "bf16"), 100 * 30 * 17 * 3e-6)
    taught = cost._replace(taught=30)
    assert math.isclose(speed.h100(taught, "bf16"), 4 / 3 * speed.h100(cost, "bf16"))
    assert math.isclose(speed.h100(cost._replace(training_flops=10**14, steps=0), "bf16"), 1.0)


def test_a_few_steps_are_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer itself is measured on random images; the next plan knows the speed without torch."""
    from coopnet.runs.workspace import Workspace

    monkeypatch.setattr(speed, "SECONDS", 0.0)
    demo = study.load(ROOT, "demo")
    assert speed.remembered(Workspace(tmp_path), "cpu") == []
    found = speed.measure(Workspace(tmp_path), demo)
    assert found.flops_per_second > 0
    assert (found.device, found.precision, found.threads) == ("cpu", "fp32", 1)
    assert speed.remembered(Workspace(tmp_path), "cpu") == [found]
    assert speed.remembered(Workspace(tmp_path), "cuda") == []
