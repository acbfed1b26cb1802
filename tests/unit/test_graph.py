"""Replayed work: what a CUDA graph would repeat is what was meant, whatever changed since it was recorded."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from coopnet.data.augment import Images
from coopnet.networks.loss import Teaching, loss
from coopnet.networks.network import Architecture, CooperativeNetwork, build
from coopnet.study.settings import SGD, Adam, GradientRatio
from coopnet.training import engine, graph
from coopnet.training.engine import Meters, make_deterministic, train_step
from coopnet.training.gradient_ratio import ModuleRates
from coopnet.training.graph import WARM_UP, CudaGraph, GraphedStep
from coopnet.training.optimizer import Optimizer
from coopnet.training.trainer import Interrupted, train
from replay_fixture import Census, Repeater, Replayer
from training_fixture import CPU, Ram, Silence, never, result, settings, split, task

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("random", {}),
    ("masked", {}),
    ("split", {"selection": "best_validation"}),
    ("random", {"optimizer": {"kind": "adam", "lr": 0.01}}),
    ("random", {"schedule": {"gradient_ratio": {"every": 2, "smoothing": 0.5}}, "test_every": 2}),
    ("random", {"distillation": {"kind": "mutual"}}),
    ("random", {"distillation": {"kind": "none"}}),
    ("taught", {"distillation": {"kind": "soft_labels"}}),
    ("random", {"precision": "bf16"}),
]


def trained_with(
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    changes: dict[str, Any],
    stops: bool = False,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """The bits of a run whose full batches go through `recorder`; `stops` now and then."""
    monkeypatch.setitem(graph.RECORDERS, device.type, recorder)
    monkeypatch.setattr(engine, "EVALUATION_BATCH", 8)
    training, memory, asked = settings(epochs=4, **changes), Ram(), 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return "now" if stops and asked % 7 == 0 else None

    while True:
        try:
            return result(train(task(training, start=start, device=device), memory, Silence(), stop))
        except Interrupted:
            pass


@pytest.mark.parametrize(("start", "changes"), KINDS)
def test_replayed_training_is_training(start: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations recorded once and repeated give the bits of work that is done anew each time.

    Learning rate, ramp-up, the opening of a branch, the factors of modules, meters and the best network change between
    replays; the last batch of each epoch is smaller and goes its own way.
    """
    meant = trained_with(Repeater, monkeypatch, start, changes)
    Replayer.made.clear()
    assert trained_with(Replayer, monkeypatch, start, changes) == meant
    # 4 epochs of 4 full batches and a smaller one; 2 of 20 validation images and 3 of 30 test images are full.
    looks = 2 if "test_every" in changes else 4
    expected = [4 * 4 - WARM_UP, 4 * 2 - WARM_UP, looks * 3 - WARM_UP]
    assert [made.replays for made in Replayer.made] == expected


def test_replayed_training_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped warms up and records anew, and ends with the same bits."""
    calm = trained_with(Replayer, monkeypatch, "random", {})
    assert trained_with(Replayer, monkeypatch, "random", {}, stops=True) == calm


def test_a_number_that_was_recorded_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder of these tests does what a graph does: it repeats a Python number, and follows a tensor."""
    monkeypatch.setitem(graph.RECORDERS, "cpu", Replayer)
    plain, held, total = 1.0, graph.number(1.0, CPU), torch.zeros(2)
    assert isinstance(held, Tensor)

    def work(batch: Tensor) -> None:
        total.add_(torch.stack([batch.sum() * plain, batch.sum() * held]))

    run = GraphedStep(work, 2, CPU)
    for number in (1.0, 1.0, 1.0, 1.0, 10.0):
        plain = number
        held.fill_(number)
        run(torch.tensor([1.0, 0.0]))
    assert total.tolist() == [5.0, 14.0]


def test_work_that_waits_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value on the host is refused."""
    monkeypatch.setitem(graph.RECORDERS, "cpu", Replayer)
    run = GraphedStep(lambda batch: print(batch.sum().item()), 1, CPU)
    for _ in range(WARM_UP):
        run(torch.ones(1))
    with pytest.raises(RuntimeError, match="waits for the device"):
        run(torch.ones(1))


STEP = Teaching("on_the_fly", gated=True, temperature=3.0, weight=0.5)
OPERATIONS = {1: 306, 3: 535, 5: 719}
"""Operations of a training step by number of branches, ResNet-32 in fp32, with the locked version of PyTorch."""


@pytest.mark.parametrize("branches", OPERATIONS)
def test_operations_of_a_training_step(branches: int) -> None:
    """A step does no more operations than it did, and none that the host has to wait for.

    What counts is what is launched, a kernel each at least. Where a step needs fewer now, lower the number.
    """
    make_deterministic(1)
    architecture = Architecture("cifar_resnet", 32, "basic", 16, branches, "learned" if branches > 1 else "none", 100)
    network = build(architecture, 0).to(memory_format=torch.channels_last)
    images, optimizer, meters = split(8, 0), Optimizer(network, SGD(kind="sgd", lr=0.1), {}), Meters(branches, CPU)
    order, offsets, flips = torch.arange(8), torch.zeros(8, 2, dtype=torch.long), torch.zeros(8, dtype=torch.bool)
    teaching = STEP._replace(gated=branches > 1)
    with Census() as census:
        batch = images.augmented(order, offsets, flips)
        train_step(network, optimizer, batch, images.labels[order], teaching, "fp32", meters)
    assert census.launched.total() <= OPERATIONS[branches], census.launched.most_common()


class OnDevice(Census):
    """Keeps what is dispatched with tensors of the host among its tensors; backward and fused updates are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it and look where its tensors are."""
        name = function.overloadpacket.__name__
        made = None if name.startswith("_fused_") else super().__torch_dispatch__(function, types, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        self.mixed += [name] if any(tensor.device.type == "cpu" for tensor in tensors) else []
        return made


@pytest.mark.parametrize(
    ("kind", "optimizer", "ratio"),
    [("on_the_fly", "sgd", False), ("on_the_fly", "adam", True), ("mutual", "sgd", True), ("none", "sgd", False)],
)
def test_step_on_a_gpu_touches_nothing_on_the_host(
    kind: Any, optimizer: str, ratio: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors that only pretend to be on a GPU, a step and an evaluation batch make none elsewhere.

    A number that a step copies from the host makes it wait, and cannot be recorded.
    """
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    make_deterministic(1)
    options: Any = SGD(kind="sgd", lr=0.1) if optimizer == "sgd" else Adam(kind="adam", lr=0.1)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        network = CooperativeNetwork(Architecture("cifar_resnet", 8, "basic", 4, 2, "learned", 4)).train()
        monkeypatch.setattr(Tensor, "backward", lambda loss: fill_gradients(network))
        rates = ModuleRates(network, GradientRatio(every=2, smoothing=0.5), torch.device("cuda")) if ratio else None
        steps, meters = Optimizer(network, options, {}, rates), Meters(2, torch.device("cuda"))
        images = Images.__new__(Images)  # what its constructor moves over from the host
        images.padded, images.labels = torch.zeros(70, 40, 40, 3, dtype=torch.uint8), torch.zeros(70, dtype=torch.long)
        images.scale, images.shift, images.span = torch.ones(3), torch.ones(3), torch.arange(32)
        batch = torch.arange(16), torch.zeros(16, 2, dtype=torch.long), torch.zeros(16, dtype=torch.bool)
        teaching = Teaching(kind, gated=True, temperature=3.0, weight=torch.ones(()))
        with OnDevice() as watched:
            labels = images.labels[batch[0]]
            train_step(network, steps, images.augmented(*batch), labels, teaching, "fp32", meters)
        with torch.inference_mode(), watched:
            outputs = network.eval()(images.plain(batch[0]))
            meters.add(outputs, labels, loss(outputs, labels, teaching))
    assert watched.launched.total() > 100
    assert watched.mixed == []


def fill_gradients(network: CooperativeNetwork) -> None:
    """Instead of backward, which needs a real device."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)


GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize(("start", "changes"), KINDS)
def test_graphs_on_a_gpu_give_the_bits_of_single_operations(
    start: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CUDA graph and work that is launched operation by operation train the same network, to the bit.

    So does a run that is interrupted, whose graph is recorded anew at other steps.
    """
    meant = trained_with(Repeater, monkeypatch, start, changes, device=GPU)
    assert trained_with(CudaGraph, monkeypatch, start, changes, device=GPU) == meant
    assert trained_with(CudaGraph, monkeypatch, start, changes, device=GPU, stops=True) == meant


@needs_gpu
def test_epoch_on_a_gpu_never_waits() -> None:
    """Steps of an epoch run with every synchronisation made an error."""

    class Watch(Silence):
        """Forbids waiting from the second epoch's first step to its last."""

        def begin(self, epoch: int, epochs: int, images: int, done: int) -> None:
            self.second, self.left = epoch == 1, images
            self.advance(0)

        def advance(self, images: int) -> None:
            self.left -= images
            torch.cuda.set_sync_debug_mode("error" if self.second and self.left else "default")

    try:
        train(task(settings(epochs=2), device=GPU), Ram(), Watch(), never)
    finally:
        torch.cuda.set_sync_debug_mode("default")
