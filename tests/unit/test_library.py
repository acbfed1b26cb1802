"""The library: growing, extracting and saving networks with function calls, for the study's and any other network."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

import coopnet
from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.library.optimizers import state_of
from coopnet.library.parts import folded, plain
from coopnet.library.receipt import batches_of
from coopnet.library.transfers import combined, merged
from coopnet.networks import merge as merging
from coopnet.networks import streams
from coopnet.networks.loss import Teaching, loss
from coopnet.networks.network import Architecture, build, trainable_parameters
from coopnet.networks.transfer import TrainedNetwork
from test_backbone import EXACT, IMAGES, Convolutional, Root, logits, wrapped

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-3),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1),
}


def small(branches: int, seed: int = 0, gate: str = "learned") -> coopnet.CooperativeNetwork:
    """A network of the study."""
    return build(Architecture("cifar_resnet", 8, "basic", 4, branches, gate, 5), seed)


def convolutional(**options: Any) -> coopnet.CooperativeNetwork:
    """A small model made cooperative, with some options changed."""
    return coopnet.wrap(Convolutional(), "blocks.1", **{"branches": 2, "classes": 7, "example": IMAGES} | options)


def network_of(kind: str, branches: int, seed: int) -> coopnet.CooperativeNetwork:
    """A network of the study, or one around a random model."""
    return small(branches, seed) if kind == "study" else wrapped(kind, 1, seed, branches)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> float:
    """Train a few steps with the cooperative loss; returns the last loss."""
    criterion, value = coopnet.CooperativeLoss(rampup=0), torch.zeros(())
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        value = criterion(network(IMAGES), LABELS)
        value.backward()
        optimizer.step()
    return value.item()


def groups_of(network: nn.Module) -> list[dict[str, object]]:
    """Parameter groups: weight decay for weights, none for biases and scales."""
    big = [p for p in network.parameters() if p.dim() > 1]
    return [{"params": big}, {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0}]


def test_importing_is_light() -> None:
    """`import coopnet` imports neither torch nor NumPy; a name imports what it needs."""
    code = (
        "import sys, coopnet; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); "
        "coopnet.grow; sys.modules['torch']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there() -> None:
    """All promised names exist and have a docstring; any other name raises AttributeError."""
    for name in coopnet.__all__:
        assert getattr(coopnet, name) is not None
        assert name == "__version__" or getattr(coopnet, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        coopnet.prune  # noqa: B018


def test_loss_is_that_of_the_study() -> None:
    """Including its ramp-up: r(t) of the epoch that was set."""
    outputs = small(3).train()(torch.randn(6, 3, 32, 32))
    criterion = coopnet.CooperativeLoss(temperature=2.0, rampup=10)
    criterion.set_epoch(4)
    assert 0 < criterion.weight < 1
    expected = loss(outputs, LABELS, Teaching("on_the_fly", True, 2.0, criterion.weight)).total
    assert torch.equal(criterion(outputs, LABELS), expected)
    assert not torch.equal(coopnet.CooperativeLoss(2.0, rampup=0)(outputs, LABELS), expected)


@pytest.mark.parametrize("kind", ["study", "convolutional"])
def test_network_is_trained_as_any_other_module(tmp_path: Path, kind: str) -> None:
    """Compiled or data-parallel it has the plain network's gradients; autocast keeps logits and weights in float32."""
    plain_one = network_of(kind, 3, 0).train()
    images, criterion = torch.randn(6, 3, 32, 32) if kind == "study" else IMAGES, coopnet.CooperativeLoss(rampup=0)

    def trained(network: nn.Module) -> tuple[Tensor, list[Tensor]]:
        copied.zero_grad()
        value = criterion(network(images), LABELS)
        value.backward()
        return value.detach(), [
            parameter.grad.clone() for parameter in copied.parameters() if parameter.grad is not None
        ]

    copied = copy.deepcopy(plain_one)
    expected, gradients = trained(copied)
    assert len(gradients) == len(list(copied.parameters()))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for wrapped_as in (
            nn.parallel.DistributedDataParallel,
            lambda network: torch.compile(network, backend="aot_eager", fullgraph=True),
        ):
            copied = copy.deepcopy(plain_one)
            value, others = trained(wrapped_as(copied))
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(others, gradients, atol=1e-5, rtol=1e-4)
    finally:
        torch.distributed.destroy_process_group()
    copied = copy.deepcopy(plain_one)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = copied(images)
        value = criterion(outputs, LABELS)
    assert {outputs.branches.dtype, outputs.gate.dtype, value.dtype} == {torch.float32}
    torch.testing.assert_close(value.detach(), expected, rtol=0.02, atol=0.02)
    value.backward()


RANK = """
import sys
import torch, coopnet
from torch.nn.parallel import DistributedDataParallel

folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
network = coopnet.load(folder + "/before").train()
inside, criterion = DistributedDataParallel(network), coopnet.CooperativeLoss(rampup=0)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
given = torch.load(folder + "/batches.pt")
for images, labels in zip(given["images"], given["labels"]):
    optimizer.zero_grad()
    criterion(inside(images[rank::2]), labels[rank::2]).backward()
    optimizer.step()
coopnet.save(network, f"{folder}/after{rank}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Data-parallel over two processes, every step has the mean of both gradients, and both end with the same weights.

    The reference does in one process what DistributedDataParallel promises: BatchNorm has the statistics of a process's
    own images, and the running ones of process 0 go to the other before each forward pass.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(3, 8, 3, 32, 32), torch.randint(5, (3, 8))
    torch.save({"images": images, "labels": labels}, tmp_path / "batches.pt")
    coopnet.save(small(3), tmp_path / "before")
    command = [sys.executable, "-c", RANK, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    first, second = (coopnet.load(tmp_path / "before").train() for _ in range(2))
    criterion = coopnet.CooperativeLoss(rampup=0)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.05, momentum=0.9)
    for batch, target in zip(images, labels, strict=True):
        second.load_state_dict(first.state_dict())
        for rank, network in enumerate((first, second)):
            network.zero_grad()
            criterion(network(batch[rank::2]), target[rank::2]).backward()
        for mine, other in zip(first.parameters(), second.parameters(), strict=True):
            assert mine.grad is not None
            assert other.grad is not None
            mine.grad.add_(other.grad).div_(2)
        optimizer.step()
    ended = [dict(coopnet.load(tmp_path / f"after{rank}").named_parameters()) for rank in range(2)]
    for name, parameter in first.named_parameters():
        assert torch.equal(ended[0][name], ended[1][name]), name
        torch.testing.assert_close(ended[0][name], parameter, rtol=1e-4, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["study", "convolutional", "tokens"]),
    before=st.integers(1, 3),
    new=st.integers(1, 2),
    how=st.sampled_from(["masked", "split"]),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    donors=st.lists(st.integers(1, 3), min_size=2, max_size=2),
    seed=st.integers(0, 2**16),
)
def test_growth_is_exact_and_takes_the_optimiser_along(
    kind: str, before: int, new: int, how: str, optimizer: str, donors: list[int], seed: int
) -> None:
    """For networks, B → B′, donors and optimisers: logits stay, state follows each tensor, and training continues."""
    network = network_of(kind, before, seed)
    images = torch.randn(6, 3, 32, 32) if kind == "study" else IMAGES
    old = OPTIMIZERS[optimizer](groups_of(network))
    if kind == "study":
        network.train()
        coopnet.CooperativeLoss()(network(images), LABELS).backward()
        old.step()
    else:
        train(network, old)
    chosen = [min(donor, before) for donor in donors][:new] if how == "split" else None
    grown = coopnet.grow(network, before + new, how=how, donors=chosen, optimizer=old, images=images, seed=seed)
    assert grown.receipt.exact
    assert grown.receipt.measured is not None
    assert grown.receipt.measured.exact, str(grown.receipt)
    assert grown.optimizer is not None
    assert type(grown.optimizer) is type(old)

    mine, theirs = dict(grown.network.named_parameters()), dict(network.named_parameters())
    for name, parameter in theirs.items():
        if not name.startswith("gate."):
            for slot, value in old.state[parameter].items():
                assert torch.equal(grown.optimizer.state[mine[name]][slot], value), name
    copy, donor = f"branches.{before}.", f"branches.{(chosen or [1])[0] - 1}."
    for name in (name for name in mine if name.startswith(copy)):
        state = grown.optimizer.state.get(mine[name], {})
        if how == "masked":
            assert not state, name
        else:
            source = old.state[theirs[donor + name.removeprefix(copy)]]
            assert state.keys() == source.keys()
            assert all(torch.equal(state[slot], source[slot]) for slot in source), name
    decays = {id(p): group["weight_decay"] for group in grown.optimizer.param_groups for p in group["params"]}
    assert decays.keys() == {id(p) for p in mine.values()}
    assert {decays[id(p)] for p in mine.values() if p.dim() <= 1} == {0.0}

    grown.network.train()
    coopnet.CooperativeLoss(rampup=0)(grown.network(images), LABELS).backward()
    before_step = {name: p.clone() for name, p in mine.items()}
    grown.optimizer.step()
    assert any(not torch.equal(before_step[name], p) for name, p in mine.items())


def test_grown_optimiser_steps_as_the_old_one() -> None:
    """While the new branch is closed, a step moves the old tensors as it would have without it."""
    network = small(2).eval()  # fixed statistics, so that both see the same function
    images = torch.randn(6, 3, 32, 32)
    old = OPTIMIZERS["adam"](network.parameters())

    def step(of: coopnet.CooperativeNetwork, by: torch.optim.Optimizer) -> None:
        by.zero_grad()
        nn.functional.cross_entropy(of(images).ensemble, LABELS).backward()
        by.step()

    for _ in range(2):
        step(network, old)
    grown = coopnet.grow(network, 3, how="masked", optimizer=old)
    assert grown.optimizer is not None
    step(network, old)
    step(grown.network, grown.optimizer)
    one, two = network.state_dict(), grown.network.state_dict()
    for name in one:
        if not name.startswith("gate"):
            torch.testing.assert_close(two[name], one[name])


def test_receipt_says_where_every_tensor_comes_from() -> None:
    """Each tensor is listed once, statements about copies are true, and changes are measured."""
    network, images = small(2), torch.randn(8, 3, 32, 32)
    grown = coopnet.grow(network, 3, how="split", donors=[2], noise=0.5, images=[(images[:5], 0), (images[5:], 0)])
    told, old, new = grown.receipt.tensors, network.state_dict(), grown.network.state_dict()
    assert told.keys() == new.keys()
    for name, origin in told.items():
        if origin.startswith("copied from ") and "noise" not in origin:
            assert torch.equal(new[name], old[origin.removeprefix("copied from ")]), name
    assert told["branches.2.classifier.weight"] == "copied from branches.1.classifier.weight, with noise of σ = 0.5"
    assert told["gate.linear.weight"] == "rows 1, 2, 3 copied from rows 1, 2, 2 of gate.linear.weight"
    assert not grown.receipt.exact
    measured = grown.receipt.measured
    assert measured is not None
    assert measured.images == 8
    with torch.no_grad():
        change = (grown.network.eval()(images).ensemble - network.eval()(images).ensemble).abs().max().item()
    assert measured.largest_difference == pytest.approx(change, rel=1e-4)
    assert "σ = 0.5" in str(grown.receipt)
    fresh = coopnet.grow(network, 3, how="zero_output").receipt.tensors
    assert fresh["branches.2.classifier.weight"] == "zero"
    assert fresh["branches.2.stage.0.conv1.weight"] == "fresh"
    assert "rows 3 zero" in fresh["gate.linear.weight"]


def test_transfer_leaves_its_parents_as_they_were() -> None:
    """Weights, statistics and mode are unchanged."""
    network = small(1).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(6, 3, 32, 32)
    coopnet.expand(network, 3, noise=0.3, images=images)
    coopnet.merge([network, small(1, 1)], images=images)
    coopnet.combine([network, small(1, 1)], images=images)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_joined_networks_begin_as_the_mean_of_their_logits() -> None:
    """`combine` exactly, `merge` by refit closer than with the first trunk alone; the receipts say so."""
    parents, images = [small(1, seed, "none") for seed in range(3)], torch.randn(40, 3, 32, 32)
    combined = coopnet.combine(parents, images=images).receipt
    assert combined.exact
    assert combined.measured is not None
    assert combined.measured.exact
    once = coopnet.merge(parents, images=iter([images[:20], images[20:]])).receipt.measured  # read once, used twice
    assert once is not None
    refit = coopnet.merge(parents, images=images)
    assert refit.receipt.tensors["branches.1.stage.0.conv1.weight"] == "solved anew on the images"
    assert refit.receipt.tensors["branches.0.stage.0.conv1.weight"].startswith("copied from parent 1")
    assert not refit.receipt.exact
    assert refit.receipt.before == (1, 1, 1)
    mean = coopnet.merge(parents, how="mean").receipt
    assert mean.tensors["trunk.stem.0.weight"] == "mean of all parents"
    assert mean.measured is None


def test_any_number_of_images_will_do_and_they_go_to_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is left with a single image, which has no variance; every batch goes to the device of the networks."""
    parents = [small(1, seed) for seed in range(2)]
    for count in (1, 499, 501, 1001):
        sizes = [len(batch) for batch in batches_of(torch.zeros(count, 1, 1, 1))()]  # type: ignore[misc]
        assert sum(sizes) == count
        assert min(sizes) > 1 or count == 1
        assert max(sizes) <= 501
    coopnet.merge(parents, images=torch.randn(501, 3, 8, 8))
    seen: list[Tensor] = []

    def fail(*_: object, images: Any, **__: object) -> None:
        seen.extend(images())
        raise ValueError("seen")

    monkeypatch.setattr(merging, "merge", fail)
    with pytest.raises(CoopNetError, match="seen"):
        coopnet.merge([one.to("meta") for one in parents], images=[torch.randn(4, 3, 8, 8)])
    assert [one.device.type for one in seen] == ["meta"]


@pytest.mark.parametrize("how", ["refit", "mean"])
def test_networks_without_running_statistics_are_merged(how: str) -> None:
    """BatchNorm that keeps no statistics has none to measure anew."""

    def plain_one() -> coopnet.CooperativeNetwork:
        layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()]
        model = nn.Sequential(
            *layers, nn.Conv2d(4, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        )
        return coopnet.wrap(model, "3", branches=1, classes=5, gate="none", example=torch.zeros(2, 3, 8, 8))

    images = torch.randn(16, 3, 8, 8)
    joined = coopnet.merge([plain_one(), plain_one()], how=how, reestimate=True, images=images)
    assert joined.network(images).ensemble.isfinite().all()


def test_a_wrapped_model_keeps_its_device() -> None:
    """The new gate is where the model is."""
    network = coopnet.wrap(Convolutional().to("meta"), "blocks.1", branches=2, classes=7, example=IMAGES.to("meta"))
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}


def test_numbers_may_be_those_of_numpy(tmp_path: Path) -> None:
    """A number of classes that was computed from an array can be saved."""
    two, five = np.int64(2), np.int64(5)
    network = coopnet.cooperative("cifar_resnet8", branches=two, classes=five, width=np.int64(4))
    coopnet.save(network, tmp_path / "a")
    coopnet.save(coopnet.grow(network, np.int64(3)).network, tmp_path / "b")
    own = coopnet.wrap(Convolutional(), "blocks.1", branches=two, classes=np.int64(7), example=IMAGES)
    coopnet.save(own, tmp_path / "c")
    assert coopnet.load(tmp_path / "b").architecture.branches == 3


def test_gate_rows_come_from_gates() -> None:
    """A network without a gate has no row to copy, and no receipt says so."""
    parents = [small(1), small(1, gate="none")]
    with pytest.raises(CoopNetError, match="network 2 has no gate"):
        coopnet.combine(parents, gate_rows="parents")
    with pytest.raises(CoopNetError, match="use gate_rows='uniform'"):
        coopnet.merge(parents, how="first", gate_rows="parents")


def test_matching_without_scipy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install .` brings no SciPy; the error names it and the remedy."""
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(coopnet.CoopNetError, match=r"needs scipy.*pip install '\.\[study\]'"):
        coopnet.merge([small(1), small(1)], how="matched")


@settings(max_examples=8, deadline=None)
@given(
    kind=st.sampled_from(["study", "convolutional", "tokens"]),
    count=st.integers(2, 4),
    how=st.sampled_from(["combine", "first"]),
    gate=st.sampled_from(["learned", "mean"]),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    seed=st.integers(0, 2**16),
)
def test_joined_networks_have_what_their_parents_learnt(
    kind: str, count: int, how: str, gate: str, optimizer: str, seed: int
) -> None:
    """Over networks, numbers of parents and optimisers: each branch has its parent's tensors and optimiser state."""
    first = network_of(kind, 1, seed)
    images, parents, members = torch.randn(6, 3, 32, 32) if kind == "study" else IMAGES, [], []
    for number in range(count):
        network = copy.deepcopy(first)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * number * torch.randn_like(parameter))
        made = OPTIMIZERS[optimizer](groups_of(network))
        coopnet.CooperativeLoss()(network.train()(images), LABELS).backward()
        made.step()
        parents.append(network.eval())
        members.append(TrainedNetwork(network, state_of(made, network)))
    if how == "combine":
        joined, receipt = combined(members, gate=gate, seed=seed, images=images)
        assert receipt.exact
        assert receipt.measured is not None
        assert receipt.measured.exact, str(receipt)
        with torch.no_grad():
            expected = torch.stack([parent(images).ensemble for parent in parents]).mean(0)
            torch.testing.assert_close(joined.network.eval()(images).ensemble, expected, atol=1e-5, rtol=1e-4)
    else:
        joined, receipt = merged(members, how="first", seed=seed)
        assert not receipt.exact
    tensors = joined.network.state_dict()
    for number, (parent, state) in enumerate(members):
        places = {"branches.0.": f"branches.{number}.", "trunk.": f"trunks.{number}." if how == "combine" else "trunk."}
        for old, new in places.items():
            if new == "trunk." and number:
                continue  # the first parent's
            for name, tensor in parent.state_dict().items():
                if name.startswith(old):
                    assert torch.equal(tensors[new + name.removeprefix(old)], tensor), name
            for slot, of_parent in state.items():
                for name, tensor in of_parent.items():
                    if name.startswith(old):
                        kept = joined.optimizer_state[slot][new + name.removeprefix(old)]
                        assert torch.equal(kept, tensor), (slot, name)
    assert any(state for _, state in members)


def test_closed_branches_open_by_their_share() -> None:
    """The log-prior is the logarithm of the share; a network never closes completely."""
    grown = coopnet.grow(small(2), 3, how="masked").network
    assert grown.gate is not None
    coopnet.open_branches(grown, [3], 0.5)
    assert grown.gate.log_prior.tolist() == pytest.approx([0, 0, -0.6931], abs=1e-3)
    with pytest.raises(CoopNetError, match="stay open"):
        coopnet.open_branches(grown, [1, 2, 3], 0.0)


def flops(network: nn.Module) -> int:
    """FLOPs of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops())


def test_branch_is_as_large_and_fast_as_the_plain_network() -> None:
    """A branch in eval mode with folded BatchNorm has the baseline's parameters and FLOPs, layer by layer."""
    network, baseline = small(3), small(1, gate="none")
    for fold in (False, True):
        one, plain_one = coopnet.branch(network, 2, fold=fold).eval(), coopnet.branch(baseline, 1, fold=fold).eval()
        assert trainable_parameters(one) == trainable_parameters(plain_one)
        assert flops(one) == flops(plain_one) == flops(baseline.eval())
    assert trainable_parameters(coopnet.branch(network, 2)) == trainable_parameters(baseline)
    fused = coopnet.branch(network, 2, fold=True)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), network.eval()(images).branches[:, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["study", "convolutional", "tokens"])
def test_parts_compute_what_they_computed_in_the_whole(kind: str) -> None:
    """A single branch, and a subset whose weights are proportional to those in the whole network."""
    network = network_of(kind, 3, 1).eval()
    images = torch.randn(5, 3, 32, 32) if kind == "study" else IMAGES
    with torch.no_grad():
        whole, part = network(images), coopnet.subset(network, [3, 1])(images)
        torch.testing.assert_close(coopnet.branch(network, 2)(images), whole.branches[:, 1])
        torch.testing.assert_close(part.branches, whole.branches[:, [2, 0]])
        weights = whole.gate[:, [2, 0]]
        torch.testing.assert_close(part.gate, weights / weights.sum(1, keepdim=True))
        torch.testing.assert_close(plain(network, None)(images), whole.ensemble, atol=1e-5, rtol=1e-4)


def test_parts_of_combined_networks() -> None:
    """Each branch has its own trunk; a mean gate allows subsets, a learned one needs all trunks."""
    parents, images = [small(1, seed, "none").eval() for seed in range(3)], torch.randn(4, 3, 32, 32)
    mean, learned = (coopnet.combine(parents, gate=gate).network for gate in ("mean", "learned"))
    with torch.no_grad():
        torch.testing.assert_close(coopnet.branch(learned, 2)(images), parents[1](images).ensemble)
        part = coopnet.subset(mean, [3, 2])(images)
        torch.testing.assert_close(part.branches[:, 0], parents[2](images).ensemble)
        torch.testing.assert_close(coopnet.subset(mean, [3])(images).ensemble, parents[2](images).ensemble)
        again = coopnet.subset(learned, [2, 3, 1])(images)
        torch.testing.assert_close(again.gate, learned(images).gate[:, [1, 2, 0]])
    with pytest.raises(CoopNetError, match="reads the trunks of all"):
        coopnet.subset(learned, [1, 2])


def test_saved_networks_come_back(tmp_path: Path) -> None:
    """Weights bit for bit, and the optimiser's state, for a network of the study and one around a model."""
    own = coopnet.wrap(Convolutional(), "blocks.1", branches=2, classes=5, example=IMAGES)
    named = coopnet.wrap("torchvision/resnet18", "layer4", branches=2, classes=5, example=torch.zeros(2, 3, 32, 32))
    for network, model in ((small(3), None), (own, Convolutional()), (named, None)):
        optimizer = OPTIMIZERS["adamw"](network.parameters())
        train(network, optimizer, 1)
        coopnet.save(network, tmp_path, optimizer=optimizer, class_names=list("abcde"))
        loaded = coopnet.load(tmp_path, model=model)
        assert loaded.architecture == network.architecture
        assert not loaded.training
        state = network.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
        assert torch.equal(logits(loaded), logits(network))
        again = OPTIMIZERS["adamw"](loaded.parameters())
        coopnet.load_optimizer(tmp_path, loaded, again)
        loaded.train()
        assert train(loaded, again, 2) == pytest.approx(train(network, optimizer, 2), rel=1e-5)
    assert not [path.name for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_no_remedy_deletes_a_saved_network(name: str, damage: str, tmp_path: Path) -> None:
    """Nothing makes a saved network again, so the error does not say to delete it."""
    coopnet.save(small(3), tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[:-9] if damage == "truncate" else content[:-9] + b"x" + content[-8:])
    if damage == "remove":
        path.unlink()
    remedy = "restore it from a copy, or save the network again"
    said = "it has no model.json" if (name, damage) == ("model.json", "remove") else f"{path.name} .*; {remedy}"
    with pytest.raises(CoopNetError, match=said) as raised:
        coopnet.load(tmp_path)
    assert "delete the" not in str(raised.value)
    assert "delete it" not in str(raised.value)


@pytest.mark.parametrize("kind", ["study", "convolutional"])
def test_record_of_a_later_version_is_refused(tmp_path: Path, kind: str) -> None:
    """An architecture with an entry that this version does not know may compute something else: it is not ignored."""
    coopnet.save(network_of(kind, 2, 0), tmp_path)
    record = files.read_sealed(tmp_path / "model.json", files.LARGEST_RECORD)
    files.write_json(tmp_path / "model.json", record | {"architecture": record["architecture"] | {"dropout": 0.5}})
    with pytest.raises(CoopNetError, match="an entry 'dropout', which this version does not know"):
        coopnet.load(tmp_path, model=Convolutional())


@pytest.mark.parametrize(
    ("wrapped_", "said"),
    [
        (torch.compile, r"`\._orig_mod`"),
        (nn.DataParallel, r"`\.module`"),
        (torch.optim.swa_utils.AveragedModel, r"`\.module`"),
    ],
)
def test_wrapper_is_refused_with_the_place_of_its_network(wrapped_: Any, said: str, tmp_path: Path) -> None:
    """No function copies weights by the names of a wrapper, which are not those of the network."""
    network = wrapped_(small(1))
    attempts = [
        lambda: coopnet.grow(network, 3),
        lambda: coopnet.combine([network, network]),
        lambda: coopnet.subset(network, [1]),
        lambda: coopnet.save(network, tmp_path),
    ]
    for attempt in attempts:
        with pytest.raises(CoopNetError, match=f"wraps a cooperative network.*{said}"):
            attempt()
    with pytest.raises(CoopNetError, match=f"wraps the model; pass the model itself, its {said}"):
        coopnet.wrap(wrapped_(Convolutional()), "blocks.1", branches=2, classes=7, example=IMAGES)


@pytest.mark.parametrize("own", [False, True])
def test_networks_with_other_tensors_are_refused(own: bool, tmp_path: Path) -> None:
    """Parametrized and pruned weights have other names, so they would not be copied; other types would be cast."""
    parametrized, pruned, half = ((convolutional() if own else small(2)) for _ in range(3))
    parametrizations.weight_norm(parametrized.branches[0].get_submodule("fc" if own else "classifier"))
    convolution = next(module for module in pruned.trunk.modules() if isinstance(module, nn.Conv2d))  # type: ignore[union-attr]
    prune.l1_unstructured(convolution, "weight", 0.5)
    half.to(torch.bfloat16)
    for network, said in ((parametrized, "parametrize"), (pruned, "prune"), (half, "bfloat16.*float32")):
        for attempt in (lambda n: coopnet.grow(n, 3), lambda n: coopnet.save(n, tmp_path)):
            with pytest.raises(CoopNetError, match=said):
                attempt(network)
    prune.remove(convolution, "weight")
    assert coopnet.grow(pruned, 3, images=IMAGES).receipt.measured.exact  # type: ignore[union-attr]


def test_what_is_frozen_stays_frozen() -> None:
    """A trunk in eval mode without gradients is so in grown, joined and extracted networks, and in the parent."""
    networks = [small(1), small(1, 1)]
    for network in (three := small(3), *networks):
        assert network.trunk is not None
        network.train()
        network.trunk.eval().requires_grad_(False)
        network.branches[0].classifier.requires_grad_(False)  # type: ignore[union-attr]
    grown = coopnet.grow(three, 5, images=IMAGES).network
    for network in (grown, coopnet.subset(three, [2, 1]), coopnet.combine(networks).network):
        for trunk in network.trunks or [network.trunk]:
            assert not any(module.training for module in trunk.modules())
            assert not any(parameter.requires_grad for parameter in trunk.parameters())
        assert network.branches.training
    frozen = [not branch.classifier.weight.requires_grad for branch in grown.branches]  # type: ignore[union-attr]
    assert frozen == [True, False, False, True, False]  # branch 4 is a copy of branch 1
    assert three.training
    assert not any(module.training for module in three.trunk.modules())  # type: ignore[union-attr]


def test_receipt_of_nothing_or_of_nan_is_refused() -> None:
    """No network is called exact that gives NaN, or that was compared on no image."""
    network = small(3)
    with pytest.raises(CoopNetError, match="no image"):
        coopnet.grow(network, 5, images=IMAGES[:0])
    with torch.no_grad():
        network.branches[0].classifier.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(CoopNetError, match="NaN"):
        coopnet.grow(network, 5, images=IMAGES)


class Curved(Convolutional):
    """The tensors of `Convolutional`, and another activation."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), activation)


def curved(activation: nn.Module, branches: int = 2) -> coopnet.CooperativeNetwork:
    """Such a model, made cooperative."""
    return coopnet.wrap(Curved(activation), "blocks.1", branches=branches, classes=7, example=IMAGES)


def test_model_of_the_same_class_with_other_settings_is_refused(tmp_path: Path) -> None:
    """Tensors of the same names and shapes do not make another model the same one."""
    coopnet.save(curved(nn.Tanh()), tmp_path)
    coopnet.load(tmp_path, model=Curved(nn.Tanh()))
    with pytest.raises(CoopNetError, match="computes something else"):
        coopnet.load(tmp_path, model=Curved(nn.ReLU()))
    with pytest.raises(CoopNetError, match="network 2 was wrapped around a model that computes something else"):
        coopnet.combine([curved(nn.Tanh(), 1), curved(nn.ReLU(), 1)])
    coopnet.combine([curved(nn.Dropout(0.1), 1), curved(nn.Dropout(0.2), 1)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coopnet.save(curved(nn.Tanh()), tmp_path)
    coopnet.load(tmp_path, model=Curved(nn.Tanh()))


class Awkward(Convolutional):
    """A model that keeps what it computed last, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.register_forward_hook(lambda module, _, outputs: setattr(self, "seen", outputs))


def test_awkward_model_is_saved_after_training(tmp_path: Path) -> None:
    """A network that cannot be copied, or gives no finite logits for random images, is saved without such a check."""
    network = coopnet.wrap(Awkward(), "blocks.1", branches=2, classes=7, example=IMAGES)
    train(network, OPTIMIZERS["sgd"](network.parameters()))
    coopnet.save(network, tmp_path)
    coopnet.load(tmp_path, model=Awkward())
    rooted = nn.Sequential(Root(), nn.Flatten(), nn.Linear(768, 7))
    coopnet.save(coopnet.wrap(rooted, "2", branches=2, classes=7, example=torch.ones_like(IMAGES) + 2), tmp_path)
    coopnet.load(tmp_path, model=rooted)


def test_optimiser_state_goes_to_an_optimiser_of_its_kind(tmp_path: Path) -> None:
    """State of another kind, for another network, or of another form is refused by name."""
    network = small(2)
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    train(network, optimizer)
    coopnet.save(network, tmp_path, optimizer=optimizer)
    with pytest.raises(
        CoopNetError, match=r"has an optimiser's momentum_buffer, and AdamW .* exp_avg, exp_avg_sq, step"
    ):
        coopnet.load_optimizer(tmp_path, network, OPTIMIZERS["adamw"](network.parameters()))
    with pytest.raises(CoopNetError, match="no parameter of the network"):
        coopnet.load_optimizer(tmp_path, network, OPTIMIZERS["sgd"](small(2).parameters()))
    for other, said in (
        (small(3), "with branches 2, not 3"),
        (coopnet.cooperative("cifar_resnet14", branches=2, classes=5, width=4), "with depth 8, not 14"),
    ):
        with pytest.raises(CoopNetError, match=f"{said}; pass the network that was saved"):
            coopnet.load_optimizer(tmp_path, other, OPTIMIZERS["sgd"](other.parameters()))
    record = files.read_sealed(tmp_path / "model.json", files.LARGEST_RECORD) | {"architecture": [1]}
    files.write_json(tmp_path / "model.json", files.sealed(record))
    with pytest.raises(CoopNetError, match="it is a list, not a mapping"):
        coopnet.load_optimizer(tmp_path, network, OPTIMIZERS["sgd"](network.parameters()))
    factored = torch.optim.Adafactor(network.parameters())
    train(network, factored)
    with pytest.raises(CoopNetError, match="'row_var' of Adafactor"):
        coopnet.grow(network, 3, optimizer=factored)


@pytest.mark.parametrize(
    ("options", "device"), [({}, "cpu"), ({"capturable": True}, "meta"), ({"fused": True}, "meta")]
)
def test_the_step_of_an_optimiser_goes_where_pytorch_keeps_it(
    options: dict[str, bool], device: str, tmp_path: Path
) -> None:
    """Adam counts its steps on the CPU, unless it is fused or capturable."""
    network = small(2)
    optimizer = torch.optim.Adam(network.parameters())
    train(network, optimizer)
    coopnet.save(network, tmp_path, optimizer=optimizer)
    elsewhere = small(2).to("meta")
    fresh = torch.optim.Adam(elsewhere.parameters())
    for group in fresh.param_groups:
        group.update(options)
    coopnet.load_optimizer(tmp_path, elsewhere, fresh)
    assert {state["step"].device.type for state in fresh.state.values()} == {device}


@pytest.mark.parametrize("kind", ["loaded", "grown"])
def test_state_of_a_channels_last_network_has_its_strides(kind: str, tmp_path: Path) -> None:
    """A fused optimiser goes through weights and state together, whatever their strides."""

    def stepped(fused: bool) -> list[Tensor]:
        network = small(2).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, fused=fused)
        train(network, optimizer)
        if kind == "loaded":
            coopnet.save(network, tmp_path, optimizer=optimizer)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, fused=fused)
            coopnet.load_optimizer(tmp_path, network, optimizer)
        else:
            network, optimizer, _ = coopnet.grow(network, 3, optimizer=optimizer)  # type: ignore[assignment]
        weight = next(network.parameters())
        assert weight.is_contiguous(memory_format=torch.channels_last)
        train(network, optimizer, 1)
        return [parameter.detach() for parameter in network.parameters()]

    torch.testing.assert_close(stepped(True), stepped(False))


def test_grown_optimiser_forgets_the_scheduler() -> None:
    """A scheduler of the new optimiser begins with the learning rate that the optimiser has."""
    network = small(2)
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.1)
    grown = coopnet.grow(network, 3, optimizer=optimizer)
    assert grown.optimizer is not None
    assert torch.optim.lr_scheduler.LambdaLR(grown.optimizer, lambda epoch: 1.0).get_last_lr() == [0.05 * 0.1]


class Bare(nn.Module):
    """A module with a parameter that no `reset_parameters` renews."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_a_new_branch_is_trained_whatever_the_optimiser_had() -> None:
    """Branch 1 is frozen and not in the optimiser; the new one joins the group of another branch, or the first."""
    network = small(2)
    network.branches[0].requires_grad_(False)
    for groups in (
        [{"params": network.gate.parameters()}, {"params": network.branches[1].parameters(), "lr": 0.5}],
        [{"params": network.gate.parameters()}],
    ):
        grown = coopnet.grow(network, 3, how="masked", optimizer=torch.optim.AdamW(groups, lr=0.1))
        assert grown.optimizer is not None
        *_, last = grown.optimizer.param_groups
        assert {*grown.network.branches[2].parameters()} <= {*last["params"]}
        assert all(parameter.requires_grad for parameter in grown.network.branches[2].parameters())


def test_an_optimiser_keeps_what_is_not_the_networks() -> None:
    """Parameters of another module stay in their group, with their state; names of parameters are left out."""
    network, head = small(2), nn.Linear(5, 5)
    groups = [{"params": network.named_parameters()}, {"params": head.named_parameters(), "lr": 0.5}]
    optimizer = torch.optim.Adam(groups)
    head(network.train()(IMAGES).ensemble).sum().backward()
    optimizer.step()
    grown = coopnet.grow(network, 3, optimizer=optimizer).optimizer
    assert grown is not None
    assert [group["lr"] for group in grown.param_groups] == [1e-3, 0.5]
    assert grown.param_groups[1]["params"] == list(head.parameters())
    state, before = grown.state[head.weight], optimizer.state[head.weight]
    assert torch.equal(state["exp_avg"], before["exp_avg"])
    assert state["exp_avg"] is not before["exp_avg"]


def test_state_of_groups_with_other_options_comes_back(tmp_path: Path) -> None:
    """The first group has no momentum, and so keeps nothing."""
    network = small(2)
    assert network.gate is not None

    def optimizer() -> torch.optim.Optimizer:
        rest = [p for name, p in network.named_parameters() if not name.startswith("gate.")]
        groups = [{"params": [*network.gate.parameters()], "momentum": 0.0}, {"params": rest, "momentum": 0.9}]
        return torch.optim.SGD(groups, lr=0.1)

    one, other = optimizer(), optimizer()
    train(network, one)
    coopnet.save(network, tmp_path / "saved", optimizer=one)
    coopnet.load_optimizer(tmp_path / "saved", network, other)
    weight = next(network.branches[0].parameters())
    assert torch.equal(other.state[weight]["momentum_buffer"], one.state[weight]["momentum_buffer"])


class Masked(Convolutional):
    """A model with two tied layers, and a mask of −∞."""

    def __init__(self) -> None:
        super().__init__((4, 6, 6))
        last = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1))
        last[2].weight = last[0].weight
        last.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.blocks.append(last)


def test_tied_weights_and_masks_are_saved(tmp_path: Path) -> None:
    """Weights that are tied stay tied, and a mask of −∞ is no damage; a weight that is not finite is."""
    network = coopnet.wrap(Masked(), "blocks.1", branches=2, classes=7, example=IMAGES).eval()
    coopnet.save(network, tmp_path / "saved")
    loaded = coopnet.load(tmp_path / "saved", model=Masked())
    assert torch.equal(logits(loaded), logits(network))
    tied = loaded.branches[1].get_submodule("blocks.2")
    assert tied.get_parameter("0.weight") is tied.get_parameter("2.weight")
    with torch.no_grad():
        next(network.branches[0].parameters()).fill_(torch.inf)
    coopnet.save(network, tmp_path / "odd")
    with pytest.raises(CoopNetError, match="holds NaN or infinity"):
        coopnet.load(tmp_path / "odd", model=Masked())


def test_defaults_of_pytorch_change_no_network(tmp_path: Path) -> None:
    """A loaded network is the saved one, and a grown one is in float32, whatever the default type is."""
    network = small(2)
    coopnet.save(network, tmp_path / "saved")
    torch.set_default_dtype(torch.float64)
    try:
        loaded, grown = coopnet.load(tmp_path / "saved"), coopnet.grow(network, 3, noise=0.1).network
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, network.state_dict().values(), loaded.state_dict().values()))
    assert {parameter.dtype for parameter in grown.parameters()} == {torch.float32}


@pytest.mark.parametrize("setting", ["dropout", "activation"])
def test_a_module_that_was_changed_is_refused(setting: str, tmp_path: Path) -> None:
    """A transfer would undo the change. Saving keeps the tensors; loading tells if the model computes otherwise."""
    network = coopnet.wrap(Curved(nn.ReLU()), "blocks.1", branches=2, classes=7, example=IMAGES)
    if setting == "dropout":
        network.branches[0].get_submodule("dropout").p = 0.5
    else:
        network.trunk.get_submodule("stem")[1] = nn.SiLU()
    for attempt in (lambda: coopnet.grow(network, 3), lambda: coopnet.subset(network, [1])):
        with pytest.raises(CoopNetError, match=r"the module [\w.]+ of a trunk or branch is \w+\(.*\), and was"):
            attempt()
    coopnet.save(network, tmp_path / "saved")
    if setting == "dropout":
        coopnet.load(tmp_path / "saved", model=Curved(nn.ReLU()))
    else:
        with pytest.raises(CoopNetError, match="computes something else"):
            coopnet.load(tmp_path / "saved", model=Curved(nn.ReLU()))


def test_what_is_frozen_comes_back_frozen(tmp_path: Path) -> None:
    """As it was saved, and not as it is in the model that was passed."""
    model = Convolutional().requires_grad_(False)
    network = coopnet.wrap(model, "blocks.1", branches=2, classes=7, example=IMAGES)
    coopnet.save(network, tmp_path / "saved")
    wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert {*wanted.values()} == {False, True}
    for passed in (model, Convolutional()):
        loaded = coopnet.load(tmp_path / "saved", model=passed)
        assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == wanted


class Shown(nn.Module):
    """A module that prints what it has learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale.item():.3f}"


def test_what_a_module_prints_of_itself_may_change() -> None:
    """Only what modules of libraries show are settings."""
    model = Convolutional()
    model.blocks.append(Shown())
    network = coopnet.wrap(model, "blocks.1", branches=2, classes=7, example=IMAGES)
    with torch.no_grad():
        network.branches[0].get_parameter("blocks.2.scale").fill_(2.0)
    assert coopnet.grow(network, 3, images=IMAGES).receipt.measured.exact  # type: ignore[union-attr]


def test_computed_weights_are_only_copied() -> None:
    """New branches of such a network are copies, because fresh ones would have its weights."""
    model = Convolutional()
    parametrizations.weight_norm(model.blocks[1].conv2)
    network = coopnet.wrap(model, "blocks.1", branches=2, classes=7, weights="copied", example=IMAGES)
    with pytest.raises(CoopNetError, match="are computed from others"):
        coopnet.grow(network, 3, how="masked")
    assert coopnet.grow(network, 3, images=IMAGES).receipt.measured.exact  # type: ignore[union-attr]


def test_synchronised_batchnorm_stays_so() -> None:
    """Networks made from one with SyncBatchNorm have it, too."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(small(2))
    for made in (coopnet.grow(network, 3).network, coopnet.subset(network, [1])):
        kinds = {type(module) for module in made.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        assert kinds == {nn.SyncBatchNorm}


class Repeated(nn.Module):
    """One convolution with two BatchNorms."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        convolution, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[dimensions - 1]
        self.conv, self.norms = convolution(4, 4, 3, padding=1), nn.ModuleList(norm(4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = torch.relu(norm(self.conv(x)))
        return x


@pytest.mark.parametrize(
    ("module", "dimensions"),
    [
        (Repeated(2), 2),
        (Repeated(1), 1),
        (nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)), 2),
    ],
    ids=["used twice", "used twice, 1d", "computed weight"],
)
def test_what_cannot_be_folded_stays_as_it_is(module: nn.Module, dimensions: int) -> None:
    """A convolution that is used twice, or whose weight is computed."""
    images = torch.randn(8, 4, *[9] * dimensions)
    with torch.no_grad():
        for _ in range(3):
            module.train()(2 * images + 1)
        torch.testing.assert_close(folded(module)(images), module.eval()(images))


def test_branches_take_new_weights_from_new_models() -> None:
    """With `fresh` every parameter differs between branches; without it a bare parameter is that of the model."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 16), nn.Flatten(), Bare(), nn.Linear(8, 7))

    weights = {}
    for fresh in (None, model):
        network = coopnet.wrap(model(), "2", branches=2, classes=7, example=IMAGES, fresh=fresh)
        first, second = (dict(branch.named_parameters()) for branch in network.branches)
        weights[fresh] = [torch.equal(first[name], second[name]) for name in sorted(first)]
    assert weights == {None: [True, False, False], model: [False, False, False]}
    for wrong in (lambda: nn.Linear(1, 1), lambda: nn.Sequential(nn.Conv2d(3, 8, 16), nn.Flatten(), Bare())):
        with pytest.raises(CoopNetError, match="fresh= has to build the model"):
            coopnet.wrap(model(), "2", branches=2, classes=7, example=IMAGES, fresh=wrong)


def test_loss_takes_probabilities_and_smooths_labels() -> None:
    """Certain probabilities are class indices; smoothing is PyTorch's; other labels are refused by their shape."""
    outputs = small(3)(IMAGES)
    plain_loss, certain = coopnet.CooperativeLoss(rampup=0), nn.functional.one_hot(LABELS, 5).float()
    assert torch.allclose(plain_loss(outputs, certain), plain_loss(outputs, LABELS))
    assert torch.equal(plain_loss(outputs, LABELS.int()), plain_loss(outputs, LABELS))
    smooth = coopnet.CooperativeLoss(rampup=0, label_smoothing=0.1)
    every = [*outputs.branches.unbind(1), outputs.ensemble]
    expected = sum(nn.functional.cross_entropy(one, LABELS, label_smoothing=0.1) for one in every)
    assert torch.allclose(smooth.parts(outputs, LABELS).cross_entropy, expected)
    for wrong in (LABELS.unsqueeze(1), certain.long(), LABELS.bool(), LABELS[:3]):
        with pytest.raises(CoopNetError, match=r"class indices \[6\], or probabilities \[6, 5\]"):
            plain_loss(outputs, wrong)
    with pytest.raises(CoopNetError, match=r"labels are -100 to 4; those of 5 classes are 0 to 4"):
        plain_loss(outputs, torch.tensor([0, 1, -100, 3, 4, 0]))


def test_the_compiler_does_not_look_for_streams() -> None:
    """Otherwise a network on a GPU could not be compiled as one graph."""

    def streams_and(tensor: Tensor) -> Tensor:
        return tensor + int(streams._streams_are_worth_it())

    compiled = torch.compile(streams_and, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).tolist() == [0.0]


def test_loss_says_that_no_epoch_was_set(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only if the distillation would be weak for ever."""
    network, criterion = small(3), coopnet.CooperativeLoss(rampup=8)
    for _ in range(2):
        criterion(network(IMAGES), LABELS)
    assert [record.message for record in caplog.records if "set_epoch" in record.message] == [caplog.messages[0]]
    caplog.clear()
    told = coopnet.CooperativeLoss(rampup=8)
    told.set_epoch(0)
    for other in (told, coopnet.CooperativeLoss(rampup=0), coopnet.CooperativeLoss(distillation="none")):
        other(network(IMAGES), LABELS)
    assert not caplog.records


def test_mutual_learning_needs_two_branches_and_trains_no_gate() -> None:
    """One branch would give NaN, and a learned gate would never learn."""
    criterion = coopnet.CooperativeLoss(rampup=0, distillation="mutual")
    assert criterion(small(2, gate="mean")(IMAGES), LABELS).isfinite()
    for network in (small(1, gate="none"), small(2)):
        with pytest.raises(CoopNetError, match="mutual learning needs two branches"):
            criterion(network(IMAGES), LABELS)


def test_what_is_no_network_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line with the remedy."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoopNetError, match=r"no params\.yaml"):
        coopnet.load("mini/one3/seed0")
    with pytest.raises(CoopNetError, match="not a CoopNet network"):
        coopnet.load(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(CoopNetError, match="no record of a network"):
        coopnet.load(tmp_path)
    coopnet.save(coopnet.wrap(Convolutional(), "blocks.1", branches=2, classes=5, example=IMAGES), tmp_path)
    with pytest.raises(CoopNetError, match="model="):
        coopnet.load(tmp_path)
    with pytest.raises(CoopNetError, match="not a torch"):
        coopnet.load(tmp_path, model=nn.Linear(1, 1))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CoopNetError, match=r"model\.safetensors"):
        coopnet.load(tmp_path, model=Convolutional())


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda: coopnet.cooperative("resnet32", branches=3, classes=10), "no network 'resnet32'"),
        (lambda: coopnet.cooperative("cifar_resnet33", branches=3, classes=10), "depth 33"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=0, classes=10), "branches 0"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=3, classes=10, width=0), "width 0"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=3, classes=10, width=-4), "width -4"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches="3", classes=10), "branches '3'"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=3, classes=10, seed="a"), "seed 'a' is not a whole"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=3, classes=10, seed=2**70), r"to 2\*\*64 - 1"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=3, classes=10, gate="lerned"), "did you mean 'learned'"),
        (lambda: coopnet.cooperative("cifar_resnet8", branches=3, classes=10, block="basics"), "did you mean 'basic'"),
        (lambda: convolutional(branches=0), "branches 0 is not a whole number of 1 or more"),
        (lambda: convolutional(branches="3"), "branches '3' is not a whole number of 1 or more"),
        (lambda: convolutional(branches=True), "branches True is not a whole number of 1 or more"),
        (lambda: convolutional(classes=7.0), "classes 7.0 is not a whole number of 1 or more"),
        (lambda: convolutional(classes=0), "classes 0 is not a whole number of 1 or more"),
        (lambda: convolutional(noise=-1), "noise -1 is not a number of 0 or more"),
        (lambda: convolutional(weights="copy"), "weights 'copy' is not known.*known: fresh, copied"),
        (lambda: convolutional(seed="a"), "seed 'a' is not a whole"),
        (lambda: coopnet.grow(small(3), 4, seed=2**70), r"to 2\*\*64 - 1"),
        (lambda: coopnet.grow(small(3), 2), "cannot grow 3 branches into 2; give 4 or more"),
        (lambda: coopnet.grow(small(3), "5"), "cannot grow 3 branches into '5'"),
        (lambda: coopnet.grow(small(3), 5, how="spilt"), "how 'spilt' is not known; did you mean 'split'.*zero_pad"),
        (lambda: coopnet.grow(small(3), 5, noise=-1), "noise -1 is not a number of 0 or more"),
        (lambda: coopnet.grow(small(3), 5, noise="0.1"), "noise '0.1' is not a number of 0 or more"),
        (lambda: coopnet.grow(small(3), 5, noise=float("nan")), "noise nan is not a number of 0 or more"),
        (lambda: coopnet.grow(nn.Linear(1, 1), 5), "a Linear is not a cooperative network; make one with coopnet.wrap"),
        (lambda: coopnet.expand(nn.Linear(1, 1), 5), "a Linear is not a cooperative network"),
        (lambda: coopnet.merge([nn.Linear(1, 1)] * 2), "a Linear is not a cooperative network"),
        (lambda: coopnet.branch(nn.Linear(1, 1), 1), "a Linear is not a cooperative network"),
        (lambda: coopnet.save(nn.Linear(1, 1), "nowhere"), "a Linear is not a cooperative network"),
        (lambda: coopnet.CooperativeLoss()(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long)), "not a Tensor"),
        (lambda: coopnet.merge([small(1)] * 2, how="frist"), "how 'frist' is not known; did you mean 'first'.*refit"),
        (lambda: coopnet.grow(small(3), 5, how="masked", noise=0.1), "for how='split'"),
        (lambda: coopnet.grow(small(3), 5, optimizer=torch.optim.SGD(small(3).parameters())), "no parameter"),
        (lambda: coopnet.expand(small(3), 5), "use grow"),
        (lambda: coopnet.merge([small(1)]), "two networks"),
        (lambda: coopnet.merge([small(1), small(1)]), "pass images="),
        (lambda: coopnet.merge(small(1)), "networks is a CooperativeNetwork; pass a list"),
        (lambda: coopnet.combine(small(1)), "networks is a CooperativeNetwork; pass a list"),
        (lambda: coopnet.grow(small(3), 5, images=IMAGES.double()), r"images are torch\.float64; .*torch\.float32"),
        (lambda: coopnet.grow(small(3), 5, images=[IMAGES.byte()]), r"images are torch\.uint8; normalise them"),
        (
            lambda: coopnet.wrap(Convolutional, "fc", branches=2, classes=7),
            "the model is the class Convolutional; pass",
        ),
        (lambda: coopnet.wrap(None, "fc", branches=2, classes=7), "the model is a NoneType; pass"),
        (lambda: coopnet.save(small(3), "x", preprocessing={"mean": 0.5, "std": 0.2}), "of 3 numbers each"),
        (lambda: coopnet.save(small(3), "x", image_size=0), "image_size 0 is not a whole number of 1 or more"),
        (
            lambda: coopnet.export(small(3), "x", preprocessing={"mean": [0.5] * 3, "std": [0.2] * 3}, format="onx"),
            "^format onx is not known; choose",
        ),
        (lambda: coopnet.CooperativeLoss()(small(3)(IMAGES), np.zeros(6)), "labels are a ndarray; pass a tensor"),
        (lambda: coopnet.merge([small(1), small(2)], how="first"), "has 2 branches"),
        (lambda: coopnet.branch(small(3), 4), "from 1 to 3"),
        (lambda: coopnet.subset(small(3), [1, 1]), "from 1 to 3"),
        (lambda: coopnet.CooperativeLoss(0.0), "temperature 0.0"),
        (lambda: coopnet.CooperativeLoss(label_smoothing=1), "label_smoothing 1 must be 0 or above, and below 1"),
        (lambda: coopnet.subset(small(3), 2), "branches 2 is not a list"),
        (lambda: plain(small(2), [7, 9]), "from 1 to 2"),
        (lambda: convolutional(example=(3, 16, 16)), "example is a tuple"),
        (lambda: coopnet.wrap(Convolutional().half(), "fc", branches=2, classes=7), "float16; pass model.float"),
        (lambda: coopnet.wrap("timm/resnet18", "fc", branches=2, classes=7, fresh=Convolutional), "of your own"),
        (lambda: coopnet.grow(small(3), 5, images=torch.utils.data.TensorDataset(IMAGES)), "images is a TensorDataset"),
        (lambda: coopnet.grow(small(3), 5, images=[{"image": IMAGES}]), "a batch of images is a dict"),
        (lambda: coopnet.save(small(3), "x", preprocessing=([0.5] * 3, [0.2] * 3)), "not a mapping"),
        (lambda: coopnet.save(small(3), "x", preprocessing={"mean": [0.5], "std": [0.2]}), "of 3 numbers each"),
        (lambda: coopnet.save(small(3), "x", preprocessing={"mean": [123.0] * 3, "std": [58.0] * 3}), "pixels in 0..1"),
        (lambda: coopnet.load_optimizer("x", nn.Linear(1, 1), torch.optim.SGD(small(1).parameters())), "a Linear"),
        (lambda: coopnet.export(nn.Linear(1, 1), "x", preprocessing={}, format="safetensors"), "a Linear"),
        (lambda: next(iter(coopnet.predict(small(3), []))), "what open_model or export returns"),
    ],
)
def test_what_cannot_be_done_is_refused(attempt: object, said: str) -> None:
    """The error is one line that names the mistake."""
    with pytest.raises(CoopNetError, match=said):
        attempt()  # type: ignore[operator]


def test_networks_by_name_are_those_of_the_study() -> None:
    """`cifar_resnet32` with three branches and 100 classes has the parameters that the study counts, and its bits."""
    network = coopnet.cooperative("cifar_resnet8", branches=3, classes=5, width=4, seed=2)
    twin: Tensor = small(3, 2).state_dict()["branches.2.classifier.weight"]
    assert torch.equal(network.state_dict()["branches.2.classifier.weight"], twin)
    assert coopnet.cooperative("resnet18", branches=1, classes=10).architecture.gate == "none"
    assert EXACT == 1e-6
