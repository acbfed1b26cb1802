"""Several processes train one run: what one would compute, the same bits every time, and an end that all share."""

from typing import Any

import pytest
import torch

from coopnet.training.group import ALONE, Group
from group_fixture import abandoned, diverged, normalised, started_apart, steps, together, trained, trainings

SIZES = (2, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [1, 2, 3, 16, 50])
def test_shares_are_the_batch(size: int, images: int) -> None:
    """Every image of a batch is one process's, in order; no process has two more than another."""
    batch = list(range(images))
    shares = [batch[Group(rank, size).share(images)] for rank in range(size)]
    assert [image for share in shares for image in share] == batch
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_batchnorm_is_over_the_whole_batch(size: int) -> None:
    """Outputs, gradients and running statistics in float64 are those of torch's BatchNorm on the whole batch."""
    whole, parts = normalised(ALONE), together(size, normalised)
    for i, expected in enumerate(whole):
        for name, value in expected.items():
            mine = [part[i][name] for part in parts]
            joined = torch.cat(mine) if name in ("said", "gradient", "eval") else mine[0]
            torch.testing.assert_close(joined, value, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
            if name not in ("said", "gradient", "eval"):
                assert all(torch.equal(one, mine[0]) for one in mine), name


@pytest.mark.parametrize("size", SIZES)
def test_step_is_that_of_one_process(size: int) -> None:
    """Gradient, weights, running statistics, loss and meters of a step, up to rounding, and alike in all processes."""
    whole, parts = steps(ALONE), together(size, steps)
    for case, expected in whole.items():
        for name, value in expected.items():
            if name == "gradient/gate.linear.bias":
                continue  # zero but for rounding: BatchNorm takes away whatever is added to all images
            for part in parts:
                assert torch.equal(part[case][name], parts[0][case][name]), (case, name)
            error = (parts[0][case][name] - value).abs().max().item()
            assert error <= max(1e-3 * value.abs().max().item(), 1e-6), (case, name, error)


@pytest.fixture(scope="module", params=SIZES)
def made(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Trainings of a group, by process."""
    return together(request.param, trainings)


def test_all_processes_have_the_same_network(made: list[dict[str, Any]]) -> None:
    """Weights, optimiser state and history are the same bits in every process."""
    assert all(one == made[0] for one in made)


def test_a_run_repeats_its_bits_interrupted_or_not(made: list[dict[str, Any]]) -> None:
    """Two trainings are the same bits, and so is one that any process stopped after every step."""
    assert made[0]["again"] == made[0]["masked"]
    assert made[0]["interrupted"] == made[0]["masked"]


@pytest.mark.parametrize("name", ["masked", "ratio"])
def test_curves_are_those_of_one_process(name: str, made: list[dict[str, Any]]) -> None:
    """The losses of the first epoch agree to 1e-3, those of the third to 2 %, and the schedules exactly."""
    alone, several = trained(ALONE, name)["history"], made[0][name]["history"]
    for epoch, tolerance in ((0, 1e-3), (2, 0.02)):
        assert several[epoch].keys() == alone[epoch].keys()
        for column in ("train_loss", "train_cross_entropy", "validation_loss", "test_loss"):
            assert several[epoch][column] == pytest.approx(alone[epoch][column], rel=tolerance), column
        for column in ("epoch", "lr", "rampup"):
            assert several[epoch][column] == alone[epoch][column]


def test_divergence_of_one_is_known_to_all() -> None:
    """A number that is none in one process ends all of them with the same words."""
    first, second = together(2, diverged)
    assert first == second
    assert "training loss is nan in epoch 0, step 2 of 5" in first


def test_the_first_process_gives_the_weights() -> None:
    """Whatever the others start from, weights and optimiser state are those of the first."""
    first, second = together(2, started_apart)
    assert first == second


def test_lost_process_is_noticed() -> None:
    """Who waits for a process that is gone is told so, at once."""
    said, gone = together(2, abandoned)
    assert gone == "gone"
    assert said
