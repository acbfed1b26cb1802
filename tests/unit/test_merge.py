"""Merging: permutations that keep the function, matched and refitted trunks, and the tensors that each parent gives."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coopnet.networks.merge import (
    combine,
    match,
    merge,
    permutations,
    permute,
    reestimate_statistics,
    solve_convolution,
)
from coopnet.networks.network import Architecture, CooperativeNetwork, Outputs, build
from coopnet.networks.transfer import TrainedNetwork

CIFAR = Architecture("cifar_resnet", 14, "basic", 8, 1, "learned", 10)
KINDS = {
    "basic": CIFAR,
    "ungated": replace(CIFAR, gate="none"),
    "bottleneck": replace(CIFAR, depth=20, block="bottleneck", width=4),
    "resnet18": replace(CIFAR, family="resnet18", depth=18, width=4),
}


def trained(architecture: Architecture = CIFAR, seed: int = 0, adam: bool = False) -> TrainedNetwork:
    """A network in which BatchNorm, biases and counters differ from their initial values, and its optimiser state."""
    network = build(architecture, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(seed + 7)
            elif name == "gate.log_prior":
                tensor.fill_(0.5)  # has no effect on one branch, and is not inherited
            elif tensor.dim() == 1:
                tensor += 0.3 * torch.randn(tensor.shape, generator=generator).abs()
            if name == "gate.norm.bias":
                tensor += 2  # scores above 0 distinguish rows
    state = {name: torch.randn(p.shape, generator=generator) for name, p in network.named_parameters()}
    if not adam:
        return TrainedNetwork(network, {"momentum_buffer": state})
    return TrainedNetwork(network, {"exp_avg": state, "step": {name: torch.tensor(seed + 5.0) for name in state}})


def family(count: int = 3, architecture: Architecture = CIFAR) -> list[TrainedNetwork]:
    """Parents with different weights, statistics, counters and optimiser state."""
    return [trained(architecture, 10 * i) for i in range(count)]


def batches(count: int = 3, size: int = 8, seed: int = 0) -> Callable[[], list[Tensor]]:
    """Random normalised images, the same at every call; each batch has one image more than the one before."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(size + i, 3, 32, 32, generator=generator) for i in range(count)]
    return lambda: images


IMAGES = batches(1, 6, seed=99)()[0]


def merged(
    parents: list[TrainedNetwork], trunk: str = "first", gate_rows: str = "uniform", **options: object
) -> TrainedNetwork:
    """`merge`, by default without re-estimation."""
    given: dict[str, object] = {"reestimate": False, "images": batches(), "ridge": 1e-9, "seed": 3} | options
    return merge(parents, trunk=trunk, gate_rows=gate_rows, **given)  # type: ignore[arg-type]


@torch.no_grad()
def outputs(network: CooperativeNetwork, images: Tensor = IMAGES) -> Outputs:
    """Outputs in eval mode."""
    result: Outputs = copy.deepcopy(network).eval()(images)
    return result


@torch.no_grad()
def scores(network: CooperativeNetwork, features: list[Tensor] | None = None) -> Tensor:
    """Gate scores before the softmax in eval mode, [N, B], by default of the network's own features."""
    network = copy.deepcopy(network).eval()
    assert network.gate is not None
    read = network.features(IMAGES) if features is None else features
    pooled = torch.cat([one.mean(dim=(2, 3)) for one in read], dim=1)
    return F.relu(network.gate.norm(network.gate.linear(pooled)))


def shuffle(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """A random order for every permutation of an architecture."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in build(architecture, 0).state_dict().items()}
    return {
        permutation: torch.randperm(shapes[axes[0][0]][axes[0][1]], generator=generator)
        for permutation, axes in permutations(architecture).items()
    }


def snapshot(trained: TrainedNetwork) -> dict[str, Tensor]:
    """Copies of all tensors of a trained network."""
    tensors = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    for slot, state in trained.optimizer_state.items():
        tensors |= {f"{slot}/{name}": tensor.clone() for name, tensor in state.items()}
    return tensors


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same names, and the same bits under each."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# Permutations


@pytest.mark.parametrize("kind", KINDS)
def test_every_permutation_keeps_the_logits_and_moves_the_weights(kind: str) -> None:
    """Each permutation and all together: equal logits and gate scores up to rounding, and different tensors."""
    parent = trained(KINDS[kind])
    order = shuffle(KINDS[kind], seed=1)
    before = outputs(parent.network).branches
    for chosen in (*({name: channels} for name, channels in order.items()), order):
        moved = permute(parent, chosen)
        torch.testing.assert_close(outputs(moved.network).branches, before, rtol=1e-4, atol=1e-4 * before.std().item())
        weight = permutations(KINDS[kind])[next(iter(chosen))][0][0]
        assert not torch.equal(moved.network.state_dict()[weight], parent.network.state_dict()[weight])
        if parent.network.gate is not None:
            torch.testing.assert_close(scores(moved.network), scores(parent.network), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_channels_of_a_trunk_are_permuted(kind: str) -> None:
    """Every channel dimension in trunk, reading convolutions and gate belongs to exactly one permutation."""
    network = build(KINDS[kind], 0)
    expected = []
    for name, tensor in network.state_dict().items():
        reads_trunk = name.startswith("branches.0.stage.0.") and name.endswith(("conv1.weight", "shortcut.0.weight"))
        if name.startswith("trunk.") and tensor.dim():
            inputs = tensor.dim() == 4 and name != "trunk.stem.0.weight"
            expected += [(name, 0)] + ([(name, 1)] if inputs else [])
        elif reads_trunk or name == "gate.linear.weight":
            expected.append((name, 1))
    found = [axis for axes in permutations(KINDS[kind]).values() for axis in axes]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("adam", [False, True])
def test_optimiser_state_is_permuted_with_its_tensors(adam: bool) -> None:
    """State that equals the weights still equals them after a permutation; Adam's step count has no channels."""
    network, optimizer_state = trained(adam=adam)
    slot = "exp_avg" if adam else "momentum_buffer"
    optimizer_state[slot] = {name: p.detach().clone() for name, p in network.named_parameters()}
    moved = permute(TrainedNetwork(network, optimizer_state), shuffle(CIFAR, seed=1))
    for name, parameter in moved.network.named_parameters():
        assert torch.equal(moved.optimizer_state[slot][name], parameter)
    assert not adam or moved.optimizer_state["step"] == optimizer_state["step"]


@pytest.mark.parametrize("kind", KINDS)
def test_matching_recovers_a_hidden_permutation(kind: str) -> None:
    """Matching a network to its own shuffled copy undoes the shuffle exactly."""
    parent = trained(KINDS[kind])
    hidden = shuffle(KINDS[kind], seed=2)
    moved = permute(parent, hidden)
    order = match(parent.network, moved.network, seed=0)
    assert order.keys() == hidden.keys()
    for name, channels in order.items():
        assert torch.equal(hidden[name][channels], torch.arange(len(channels))), name
    assert_same(snapshot(permute(moved, order)), snapshot(parent))


def test_matching_brings_different_trunks_closer() -> None:
    """The distance to another network's trunk decreases, and every order is a permutation."""

    def distance(one: TrainedNetwork, other: TrainedNetwork) -> float:
        pairs = zip(one.network.trunk.named_parameters(), other.network.trunk.parameters(), strict=True)  # type: ignore[union-attr]
        return float(sum((a - b).square().sum().item() for (_, a), b in pairs))

    reference, other = family(2)
    order = match(reference.network, other.network, seed=0)
    assert all(torch.equal(channels.sort().values, torch.arange(len(channels))) for channels in order.values())
    assert distance(reference, permute(other, order)) < 0.95 * distance(reference, other)


def test_mean_after_matching_a_shuffled_copy_is_the_network_itself() -> None:
    """`matched` of a network and its shuffled copy gives its trunk and momentum, and its branch twice."""
    parent = trained()
    moved = permute(parent, shuffle(CIFAR, seed=2))
    network, optimizer_state = merged([parent, moved], "matched")
    before = parent.network.state_dict()
    for name, tensor in network.state_dict().items():
        if name.startswith("trunk."):
            assert torch.equal(tensor, before[name]), name
    for name, tensor in optimizer_state["momentum_buffer"].items():
        if name.startswith("trunk."):
            assert torch.equal(tensor, parent.optimizer_state["momentum_buffer"][name]), name
    branches = outputs(network).branches
    assert torch.equal(branches[:, 0], branches[:, 1])
    assert torch.equal(branches[:, 0], outputs(parent.network).branches[:, 0])
    unmatched = outputs(merged([parent, moved], "mean").network).branches
    assert not torch.allclose(unmatched, branches, rtol=0.1)


# Trunks


def test_first_keeps_what_the_first_parent_computes() -> None:
    """Branch 1 on the first trunk equals parent 1 bit for bit; branch 2 reads that trunk too."""
    parents = family(2)
    branches = outputs(merged(parents, "first").network).branches
    assert torch.equal(branches[:, 0], outputs(parents[0].network).branches[:, 0])
    with torch.no_grad():
        read = copy.deepcopy(parents[0].network).eval().features(IMAGES)[0]
        expected = copy.deepcopy(parents[1].network).eval().branches[0](read)
    assert torch.equal(branches[:, 1], expected)


def test_mean_averages_weights_statistics_and_momentum_but_not_counters() -> None:
    """Each floating tensor of the trunk is the parents' mean; counters are the first parent's."""
    parents = family(3)
    network, optimizer_state = merged(parents, "mean")
    states = [parent.network.state_dict() for parent in parents]
    for name, tensor in network.state_dict().items():
        if name.startswith("trunk.") and tensor.dim():
            torch.testing.assert_close(tensor, sum(state[name] for state in states) / 3)
        elif name.startswith("trunk."):
            assert torch.equal(tensor, states[0][name])
    name = "trunk.stages.1.0.conv1.weight"
    expected = sum(parent.optimizer_state["momentum_buffer"][name] for parent in parents) / 3
    torch.testing.assert_close(optimizer_state["momentum_buffer"][name], expected)


def test_matched_is_the_mean_of_matched_parents() -> None:
    """Permuting the other parents by hand and then `mean` gives the same, including gate rows and momentum."""
    first, *others = family(3)
    moved = [permute(other, match(first.network, other.network, seed=3)) for other in others]
    by_hand, found = merged([first, *moved], "mean", "parents"), merged([first, *others], "matched", "parents")
    assert_same(snapshot(found), snapshot(by_hand))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (1, 2), (1, 1), (3, 1)])
def test_ridge_regression_finds_the_convolution(kernel: int, stride: int) -> None:
    """The weights of a known convolution, with more channels than `like`, are recovered from its outputs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 5, kernel, kernel, generator=generator)
    like = nn.Conv2d(5, 6, kernel, stride, padding=kernel // 2, bias=False)
    inputs = [torch.randn(n, 5, 9, 9, generator=generator) for n in (10, 3)]
    pairs = [(x, F.conv2d(x, weight, stride=stride, padding=kernel // 2)) for x in inputs]
    torch.testing.assert_close(solve_convolution(like, pairs, 1e-12), weight, rtol=1e-4, atol=1e-5)


def test_ridge_is_in_units_of_the_mean_square() -> None:
    """With Gram matrix diag(4, 0), λ = 1 adds 2 to both: weights are halved, and zero for a dead channel."""
    like = nn.Conv2d(2, 1, 1, bias=False)
    inputs = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1)
    weight = solve_convolution(like, [(inputs, torch.full((1, 1, 1, 1), 6.0))], ridge=1.0)
    torch.testing.assert_close(weight.flatten(), torch.tensor([6 * 2 / (4 + 2), 0.0]))
    with pytest.raises(ValueError, match="ridge 0 is not positive"):
        solve_convolution(like, [], ridge=0)


@pytest.mark.parametrize("kind", KINDS)
def test_refit_undoes_a_permutation_of_the_trunk(kind: str) -> None:
    """On the same trunk, or one with shuffled channels, every branch computes the same as before."""
    parent, images = trained(KINDS[kind]), batches(2, 16)
    same_trunk = copy.deepcopy(parent)
    same_trunk.network.branches.load_state_dict(trained(KINDS[kind], 10).network.branches.state_dict())
    for one in (parent, same_trunk):  # `refit` estimates statistics anew: afterwards they are what they are now
        reestimate_statistics(one.network, images)
    shuffled = permute(same_trunk, shuffle(KINDS[kind], seed=4))
    parents = [parent, same_trunk, shuffled]
    expected = torch.cat([outputs(one.network).branches for one in parents], dim=1)
    found = outputs(merged(parents, "refit", images=images).network).branches
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.std().item())
    before = outputs(merged(parents, "first", reestimate=True, images=images).network).branches
    assert not torch.allclose(before[:, 2], expected[:, 2], rtol=0.1)


def test_refit_comes_closer_to_the_parents_than_the_bare_first_trunk() -> None:
    """On another trunk, refitted convolutions are closer to the original outputs than the old ones."""
    parents = family(2)
    name = "branches.1.stage.0.conv1"
    networks = [copy.deepcopy(parent.network).eval() for parent in parents]
    errors = {}
    with torch.no_grad():
        wanted = networks[1].branches[0].stage[0].conv1(networks[1].features(IMAGES)[0])  # type: ignore[union-attr, index]
        for trunk in ("first", "refit"):
            network = merged(parents, trunk, images=batches(3, 32), ridge=1e-3).network
            got = network.get_submodule(name)(networks[0].features(IMAGES)[0])
            errors[trunk] = ((got - wanted).square().mean() / wanted.var()).item()
    assert errors["refit"] < 0.7 < errors["first"]


def test_refitted_convolutions_are_new_and_all_else_is_copied() -> None:
    """Only the two reading convolutions of branches 2 and 3 change, and their optimiser state is zero."""
    parents = family(3)
    plain, refit = merged(parents, "first"), merged(parents, "refit")
    new = {f"branches.{b}.stage.0.{name}.weight" for b in (1, 2) for name in ("conv1", "shortcut.0")}
    before = dict(plain.network.named_parameters())
    changed = {name for name, p in refit.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == new
    for name, tensor in refit.optimizer_state["momentum_buffer"].items():
        expected = torch.zeros_like(tensor) if name in new else plain.optimizer_state["momentum_buffer"][name]
        assert torch.equal(tensor, expected), name


# Statistics


def test_reestimated_statistics_are_the_means_over_batches() -> None:
    """Every BatchNorm has the mean of batch means and unbiased batch variances; batches of any size count alike."""
    network = merged(family(2)).network
    images = batches()
    watched = copy.deepcopy(network)
    seen: dict[str, list[Tensor]] = {}
    norms = {name: m for name, m in watched.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    for name, norm in norms.items():
        seen[name] = []

        def collect(_: nn.Module, inputs: tuple[Tensor], kept: list[Tensor] = seen[name]) -> None:
            values = inputs[0].transpose(0, 1).flatten(1)
            kept.append(torch.stack([values.mean(1), values.var(1)]))

        norm.register_forward_pre_hook(collect)
    with torch.no_grad():
        for batch in images():
            watched.train()(batch)
    reestimate_statistics(network, images)
    for name, batch_statistics in seen.items():
        mean, var = torch.stack(batch_statistics).mean(dim=0)
        torch.testing.assert_close(network.get_buffer(f"{name}.running_mean"), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.get_buffer(f"{name}.running_var"), var, rtol=1e-4, atol=1e-5)
    assert "gate.norm" in seen


def test_reestimation_touches_nothing_but_statistics() -> None:
    """Weights, counters, momenta and mode are unchanged, and no gradients are computed."""
    network = merged(family(2)).network.eval()
    before = copy.deepcopy(network)
    reestimate_statistics(network, batches())
    for name, tensor in network.state_dict().items():
        moved = name.endswith(("running_mean", "running_var"))
        assert torch.equal(tensor, before.state_dict()[name]) != moved, name
    assert all(module.momentum == 0.1 for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="no images"):
        reestimate_statistics(network, list)


def test_statistics_are_measured_of_every_kind_of_batchnorm_that_images_reach() -> None:
    """SyncBatchNorm has those of BatchNorm; one that no image reaches keeps its own."""
    network = merged(family(2)).network
    other = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    other.spare = nn.BatchNorm3d(2)
    other.spare.running_mean.fill_(3.0)
    modes: list[bool] = []
    other.trunk.register_forward_pre_hook(lambda trunk, _: modes.append(trunk.training))
    reestimate_statistics(network, batches())
    reestimate_statistics(other, batches())
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(state["spare.running_mean"], torch.full((2,), 3.0))
    assert (int(state["spare.num_batches_tracked"]), other.spare.momentum) == (0, 0.1)
    assert {*modes} == {False}  # the mode of dropout


def test_merge_reestimates_on_request() -> None:
    """`reestimate` calls `reestimate_statistics` for the merged network; `refit` always does."""
    parents = family(2)
    network = merged(parents, "first").network
    reestimate_statistics(network, batches())
    assert_same(network.state_dict(), merged(parents, "first", reestimate=True).network.state_dict())
    asked, unasked = (merged(parents, "refit", reestimate=asked) for asked in (True, False))
    assert_same(snapshot(asked), snapshot(unasked))


# Gates


def test_combined_mean_is_the_ensemble_of_the_parents() -> None:
    """Each branch is its parent, and the ensemble is the mean of the parents' logits."""
    parents = family(3)
    result = combine(parents, gate="mean", gate_rows="uniform", seed=0).network
    alone = torch.cat([outputs(parent.network).branches for parent in parents], dim=1)
    assert torch.equal(outputs(result).branches, alone)
    torch.testing.assert_close(outputs(result).ensemble, alone.mean(dim=1))


@pytest.mark.parametrize("kind", ["combine", "merge"])
def test_uniform_gate_weighs_all_alike_and_learns(kind: str) -> None:
    """Weights are exactly 1/B, in eval and training mode, and gradients reach the gate's BatchNorm."""
    parents = family(4)
    result = combine(parents, gate="learned", gate_rows="uniform", seed=0) if kind == "combine" else merged(parents)
    network = result.network
    assert (outputs(network).gate == 0.25).all()
    now = network.train()(IMAGES)
    assert (now.gate == 0.25).all()
    F.cross_entropy(now.ensemble, torch.arange(len(IMAGES))).backward()
    assert network.gate is not None
    assert (network.gate.norm.weight.grad != 0).all()
    assert (network.gate.norm.bias.grad != 0).all()


def test_combined_parents_keep_their_own_scores() -> None:
    """With `parents`, score b is that of parent b's gate and reads only its trunk."""
    parents = family(3)
    network = combine(parents, gate="learned", gate_rows="parents", seed=0).network
    alone = torch.cat([scores(parent.network) for parent in parents], dim=1)
    torch.testing.assert_close(scores(network), alone)
    assert (alone > 0).all()
    assert network.gate is not None
    blocks = network.gate.linear.weight.detach().reshape(3, 3, -1).abs().sum(dim=2)
    assert torch.equal(blocks > 0, torch.eye(3).bool())
    assert torch.equal(network.gate.log_prior, torch.zeros(3))


def test_merged_parents_score_the_shared_features() -> None:
    """With `parents`, score b is that of parent b's gate for the features of the shared trunk."""
    parents = family(3)
    network = merged(parents, "first", "parents").network
    with torch.no_grad():
        shared = copy.deepcopy(parents[0].network).eval().features(IMAGES)
    alone = torch.cat([scores(parent.network, shared) for parent in parents], dim=1)
    torch.testing.assert_close(scores(network), alone)
    assert (alone > 0).any(dim=0).all()


def test_gate_rows_of_matched_parents_are_permuted_along() -> None:
    """A network and its shuffled copy have equal gate rows after matching."""
    parent = trained()
    moved = permute(parent, shuffle(CIFAR, seed=2))
    found = scores(merged([parent, moved], "matched", "parents").network)
    torch.testing.assert_close(found, scores(parent.network).expand(-1, 2))
    assert (found > 0).all()


def test_a_parent_without_a_gate_gives_a_uniform_row() -> None:
    """Its score is 1 for every image; a sibling with a gate keeps its own row, and its counter."""
    parents = [trained(), trained(KINDS["ungated"], 10)]
    network = combine(parents, gate="learned", gate_rows="parents", seed=0).network
    torch.testing.assert_close(scores(network), torch.cat([scores(parents[0].network), torch.ones(6, 1)], dim=1))
    assert network.gate is not None
    assert network.gate.norm.num_batches_tracked == 7


# Inherited state


def test_state_and_counters_are_carried() -> None:
    """Every copied tensor has its parent's value, counter and momentum; a uniform gate is new."""
    parents = family(3)
    for result in (combine(parents, gate="learned", gate_rows="uniform", seed=0), merged(parents)):
        momentum = result.optimizer_state["momentum_buffer"]
        assert momentum.keys() == dict(result.network.named_parameters()).keys()
        now = result.network.state_dict()
        for b, parent in enumerate(parents):
            own = {"trunk": f"trunks.{b}" if result.network.trunk is None else "trunk", "branches": f"branches.{b}"}
            for name, tensor in parent.network.state_dict().items():
                part = name.split(".")[0]
                if part == "gate" or (part == "trunk" and b > 0 and own["trunk"] == "trunk"):
                    continue
                new = own[part] + name.removeprefix("branches.0").removeprefix("trunk")
                assert torch.equal(now[new], tensor), new
                if name in parent.optimizer_state["momentum_buffer"]:
                    assert torch.equal(momentum[new], parent.optimizer_state["momentum_buffer"][name]), new
        assert all((momentum[name] == 0).all() for name in momentum if name.startswith("gate."))
        assert now["gate.norm.num_batches_tracked"] == 0


@pytest.mark.parametrize("trunk", ["first", "mean"])
def test_copied_gate_rows_bring_their_momentum(trunk: str) -> None:
    """Row b of the gate's momentum is parent b's, and the gate's counter is the first parent's."""
    parents = family(2)
    network, optimizer_state = merged(parents, trunk, "parents")
    for name in ("gate.linear.weight", "gate.linear.bias", "gate.norm.weight", "gate.norm.bias"):
        expected = torch.cat([parent.optimizer_state["momentum_buffer"][name] for parent in parents])
        assert torch.equal(optimizer_state["momentum_buffer"][name], expected), name
    assert network.state_dict()["gate.norm.num_batches_tracked"] == 7


def test_missing_state_is_zero() -> None:
    """Any parent without optimiser state counts as zero; Adam's step stays a scalar."""
    untrained, adam = TrainedNetwork(trained(seed=10).network, {}), trained(adam=True)
    name = "trunk.stem.0.weight"
    for parents in ([untrained, adam], [adam, untrained]):
        averaged, first = (
            merged(parents, "mean", "parents").optimizer_state,
            merged(parents, "first", "parents").optimizer_state,
        )
        torch.testing.assert_close(averaged["exp_avg"][name], adam.optimizer_state["exp_avg"][name] / 2)
        assert averaged["step"][name] == 2.5
        known = parents[0] is adam
        assert torch.equal(first["exp_avg"][name], adam.optimizer_state["exp_avg"][name] * known)
        assert [first["step"][n].item() for n in (name, "gate.linear.weight")] == [5.0 * known] * 2
        b = parents.index(untrained)
        assert all((t == 0).all() for n, t in first["exp_avg"].items() if n.startswith(f"branches.{b}"))
        assert all(t.shape == () for t in first["step"].values())
        combined = combine(parents, gate="learned", gate_rows="parents", seed=0).optimizer_state
        assert combined["step"][f"trunks.{1 - b}.stem.0.weight"] == 5
        assert combined["step"][f"trunks.{b}.stem.0.weight"] == 0


@pytest.mark.parametrize("trunk", ["first", "mean", "matched", "refit", "own"])
def test_parents_are_left_untouched(trunk: str) -> None:
    """Weights, statistics, optimiser state and mode of the parents are unchanged; the result shares no memory."""
    parents = [trained(), trained(KINDS["ungated"], 10), trained(seed=20)]
    before = [snapshot(parent) for parent in parents]
    parents[0].network.eval()
    if trunk == "own":
        result = combine(parents, gate="learned", gate_rows="parents", seed=0)
    else:
        result = merged(parents, trunk, "parents", reestimate=True)
    with torch.no_grad():
        for tensor in (*result.network.state_dict().values(), *result.optimizer_state["momentum_buffer"].values()):
            tensor.fill_(3)
    for parent, state in zip(parents, before, strict=True):
        assert_same(snapshot(parent), state)
    assert [parent.network.training for parent in parents] == [False, True, True]
    assert [parent.network.gate is None for parent in parents] == [False, True, False]


def test_same_seed_same_bits_with_deterministic_kernels_only() -> None:
    """Every kind of merge gives the same bits twice, and uses no operation that PyTorch calls non-deterministic."""
    parents, mode = family(2), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        for trunk in ("first", "mean", "matched", "refit"):
            once, again = (snapshot(merged(parents, trunk, reestimate=True)) for _ in range(2))
            assert_same(once, again)
        other = merged(parents, "first", seed=4).network.state_dict()["gate.linear.weight"]
        assert not torch.equal(other, merged(parents, "first", seed=3).network.state_dict()["gate.linear.weight"])
    finally:
        torch.set_deterministic_debug_mode(mode)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 20}, "parent 2 has depth 20, parent 1 has depth 14"),
        ({"family": "resnet18"}, "parent 2 has family resnet18, parent 1 has family cifar_resnet"),
        ({"block": "bottleneck", "depth": 20}, "parent 2 has depth 20, parent 1 has depth 14"),
        ({"width": 4}, "parent 2 has width 4, parent 1 has width 8"),
        ({"classes": 100}, "parent 2 has classes 100, parent 1 has classes 10"),
        ({"branches": 3}, "parent 2 has 3 branches, a parent must have one"),
        ({"trunk": "own"}, "parent 2 has trunk 'own', a parent must have trunk 'shared'"),
    ],
)
def test_misfits_are_named(change: dict[str, object], message: str) -> None:
    """The error names the parent, the difference, and both values, for both ways of joining."""
    misfit = TrainedNetwork(build(replace(CIFAR, **change), 0), {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        merged([trained(), misfit])
    with pytest.raises(ValueError, match=message):
        combine([trained(), misfit], gate="mean", gate_rows="uniform", seed=0)


def test_different_blocks_are_refused() -> None:
    """Basic blocks and bottlenecks of the same depth are refused."""
    parents = [trained(replace(CIFAR, depth=20, block=block, width=4)) for block in ("basic", "bottleneck")]
    with pytest.raises(ValueError, match="parent 2 has block bottleneck, parent 1 has block basic"):
        merged(parents)


def test_unknown_options_and_missing_parents_are_refused() -> None:
    """The error has the wrong value."""
    parents = family(2)
    with pytest.raises(ValueError, match="unknown trunk 'last'"):
        merged(parents, "last")
    with pytest.raises(ValueError, match="unknown gate_rows 'zero'"):
        merged(parents, "first", "zero")
    with pytest.raises(ValueError, match="unknown gate 'none'"):
        combine(parents, gate="none", gate_rows="uniform", seed=0)
    with pytest.raises(ValueError, match="at least 2 parents are needed, not 1"):
        merged(parents[:1])
    with pytest.raises(ValueError, match="no images"):
        merged(parents, "refit", images=list)
