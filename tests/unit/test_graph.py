"""Replayed work: a CUDA graph repeats the intended computation, whatever has changed since its recording."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from benchmarks import nodes
from coopnet.data.augment import Images
from coopnet.files.errors import CoopNetError, RecordingFailed, TrainingFailed
from coopnet.networks import streams
from coopnet.networks.loss import Teaching, loss
from coopnet.networks.network import Architecture, CooperativeNetwork, build
from coopnet.study.settings import SGD, Adam, GradientRatio
from coopnet.training import engine, graph
from coopnet.training.engine import Meters, Precise, counted_at_once, make_deterministic, train_step
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
    """The bits of a run whose full batches go through `recorder`; `stops` interrupts it."""
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
    """Operations that are recorded once and replayed give the same bits as new work each time.

    Learning rate, ramp-up, the opening of a branch, the factors of modules, meters and the best network change between
    replays; the last batch of each epoch is smaller and has its own recording.
    """
    meant = trained_with(Repeater, monkeypatch, start, changes)
    Replayer.made.clear()
    assert trained_with(Replayer, monkeypatch, start, changes) == meant
    # 4 epochs of 4 full batches and a smaller one; 20 validation images make 2 and a smaller one, 30 test images 3.
    looks = 2 if "test_every" in changes else 4
    expected = [max(batches - WARM_UP, 0) for batches in (4 * 4, 4, 4 * 2, 4, looks * 3, looks)]
    assert [made.replays for made in Replayer.made] == expected


def test_replayed_training_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run warms up and records again, and ends with the same bits."""
    calm = trained_with(Replayer, monkeypatch, "random", {})
    assert trained_with(Replayer, monkeypatch, "random", {}, stops=True) == calm


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_run_may_resume_in_the_last_batches_of_an_epoch(stop_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation is then recorded before a training step in the same process, and the bits are the same."""
    meant = trained_with(Repeater, monkeypatch, "random", {})
    monkeypatch.setitem(graph.RECORDERS, "cpu", Replayer)
    steps, memory = 0, Ram()

    def stop() -> str | None:
        nonlocal steps
        steps += 1
        return "now" if steps == stop_after else None

    training = settings(epochs=4)
    with pytest.raises(Interrupted):
        train(task(training), memory, Silence(), stop)
    Replayer.made.clear()
    assert result(train(task(training), memory, Silence(), never)) == meant
    if stop_after > 4 - WARM_UP:
        batches = [len(made.tape.calls) for made in Replayer.made]
        assert all(batches)  # all sizes of all splits were recorded


@pytest.mark.parametrize("mode", ["serial", "eager"])
def test_other_modes_have_the_bits_of_the_graph(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without streams, and without any recording, the result is the same; in the last mode nothing is recorded."""
    meant = trained_with(Replayer, monkeypatch, "random", {"precision": "bf16"})
    monkeypatch.setenv(streams.LAUNCH, mode)
    Replayer.made.clear()
    assert trained_with(Replayer, monkeypatch, "random", {"precision": "bf16"}) == meant
    assert bool(Replayer.made) == (mode == "serial")


def test_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, its value and the valid values."""
    monkeypatch.setenv(streams.LAUNCH, "fast")
    with pytest.raises(CoopNetError, match="COOPNET_LAUNCH is 'fast'; set it to graph, serial or eager"):
        GraphedStep(print, CPU)


class Broken(Repeater):
    """A recorder that cannot record."""

    said = RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    def record(self, work: Any) -> None:
        """Fail like CUDA, which fails once more when the recording is ended."""
        try:
            raise self.said
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_failed_recording_names_the_next_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the mode, the reason, and the mode in which a new process can continue."""
    for mode, following in (("graph", "serial"), ("serial", "eager")):
        monkeypatch.setenv(streams.LAUNCH, mode)
        with pytest.raises(RecordingFailed, match=f"set COOPNET_LAUNCH={following}$") as failed:
            trained_with(Broken, monkeypatch, "random", {})
        assert (failed.value.mode, failed.value.following) == (mode, following)
        assert failed.value.reason == "RuntimeError: CUDA error: operation not permitted when stream is capturing"


def test_full_device_is_not_a_failed_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mode would have no more memory."""
    monkeypatch.setattr(Broken, "said", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    with pytest.raises(TrainingFailed, match="no memory left on cpu in epoch 0, step 4 of 5"):
        trained_with(Broken, monkeypatch, "random", {})


@pytest.mark.parametrize(
    ("mode", "bf16", "side_by_side"), [("graph", True, True), ("graph", False, False), ("serial", True, False)]
)
def test_branches_have_streams_of_their_own_in_bf16_only(
    mode: str, bf16: bool, side_by_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tested on tensors that pretend to be on a GPU, while a graph is recorded."""
    made: list[str] = []

    class Stream:
        def __init__(self) -> None:
            made.append("stream")

        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setenv(streams.LAUNCH, mode)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: bf16)
    with FakeTensorMode(), torch.device("cuda"):
        inputs = [torch.zeros(2, 3)] * 3
        outputs = streams.side_by_side([torch.nn.ReLU()] * 3, inputs)
    assert len(outputs) == 3
    assert len(made) == (4 if side_by_side else 0)


@pytest.mark.parametrize(("branches", "gate", "trunk"), [(1, "none", "shared"), (3, "learned", "own")])
def test_one_cast_of_all_weights_has_the_bits_of_autocast(branches: int, gate: str, trunk: str) -> None:
    """Outputs, gradients and running statistics of a step in bf16 equal those of autocast's cast in each layer."""
    make_deterministic(1)
    images, labels = split(6, 0).plain(torch.arange(6)), torch.tensor([0, 1, 2, 3, 0, 1])
    teaching = STEP._replace(gated=gate != "none")
    sides = []
    for cast in (True, False):
        network = build(Architecture("cifar_resnet", 8, "basic", 4, branches, gate, 4, trunk), 0).train()
        network.to(memory_format=torch.channels_last)
        if cast:
            precise = Precise(network, "bf16")
            outputs = precise(images)
        else:
            with engine.autocast(CPU, "bf16"):
                outputs = network(images)
        loss(outputs, labels, teaching).total.backward()
        if cast:
            precise.return_gradients()
        tensors = {name: parameter.grad for name, parameter in network.named_parameters()}
        sides.append(tensors | dict(network.named_buffers()) | {"branches": outputs.branches, "gate": outputs.gate})
    for name, tensor in sides[0].items():
        assert tensor is not None
        assert tensor.dtype == sides[1][name].dtype, name
        assert tensor.stride() == sides[1][name].stride(), name
        assert torch.equal(tensor, sides[1][name]), name


def test_all_counters_of_batchnorm_count_at_once() -> None:
    """Each layer in training mode counts the batch once; a layer with a cumulative average counts by itself."""
    first, second, frozen, cumulative = (torch.nn.BatchNorm2d(1, momentum=m) for m in (0.1, 0.1, 0.1, None))
    layers = torch.nn.Sequential(first, second, frozen).train()
    frozen.eval()
    with Census() as census, counted_at_once(layers):
        layers(torch.ones(2, 1, 3, 3))
    assert [layer.num_batches_tracked for layer in layers] == [1, 1, 0]
    assert (census.launched["_foreach_add_"], census.launched["add_"]) == (1, 0)
    with counted_at_once(cumulative):
        cumulative(torch.ones(2, 1, 3, 3))
    assert cumulative.num_batches_tracked == 1


def test_a_number_that_was_recorded_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder of these tests behaves like a graph: it repeats a Python number, and follows a tensor."""
    monkeypatch.setitem(graph.RECORDERS, "cpu", Replayer)
    plain, held, total = 1.0, graph.number(1.0, CPU), torch.zeros(2)
    assert isinstance(held, Tensor)

    def work(batch: Tensor) -> None:
        total.add_(torch.stack([batch.sum() * plain, batch.sum() * held]))

    run = GraphedStep(work, CPU)
    for number in (1.0, 1.0, 1.0, 1.0, 10.0):
        plain = number
        held.fill_(number)
        run(torch.tensor([1.0, 0.0]))
    assert total.tolist() == [5.0, 14.0]


def test_work_that_waits_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value on the host is refused."""
    monkeypatch.setitem(graph.RECORDERS, "cpu", Replayer)
    run = GraphedStep(lambda batch: print(batch.sum().item()), CPU)
    for _ in range(WARM_UP):
        run(torch.ones(1))
    with pytest.raises(RecordingFailed, match="waits for the device"):
        run(torch.ones(1))


STEP = Teaching("on_the_fly", gated=True, temperature=3.0, weight=0.5)
OPERATIONS = {
    **{("baseline", "fp32"): 274, ("one3", "fp32"): 480, ("one5", "fp32"): 642},
    **{("baseline", "bf16"): 279, ("one3", "bf16"): 487, ("one5", "bf16"): 649},
}
"""Operations of a training step of ResNet-32, with the locked version of PyTorch."""


@pytest.mark.parametrize(("name", "precision"), OPERATIONS)
def test_operations_of_a_training_step(name: str, precision: str) -> None:
    """A step does no more operations than before, and none that the host has to wait for.

    Each launch is at least one kernel. If a step needs fewer operations now, lower the number.
    """
    launched = nodes.count(name, precision)
    assert launched.total() <= OPERATIONS[name, precision], launched.most_common()


def test_documentation_shows_the_counts() -> None:
    """The table in docs/performance.md is what `python -m benchmarks.nodes` prints."""
    assert nodes.table() in (nodes.FOLDER / "docs" / "performance.md").read_text()


class OnDevice(Census):
    """Records operations on device tensors that also use host tensors, except in backward and fused updates."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and check the devices of its tensors."""
        name = function.overloadpacket.__name__
        made = None if name.startswith("_fused_") else super().__torch_dispatch__(function, types, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        self.mixed += [name] if any(tensor.device.type == "cpu" for tensor in tensors) else []
        return made


@pytest.mark.parametrize(
    ("kind", "optimizer", "ratio"),
    [("on_the_fly", "sgd", False), ("on_the_fly", "adam", True), ("mutual", "sgd", True), ("none", "sgd", False)],
)
def test_step_touches_nothing_on_the_host(
    kind: Any, optimizer: str, ratio: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors that pretend to be on a GPU, a step and an evaluation batch create no tensors elsewhere.

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
    """Replaces the backward pass, which needs a real device."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)


GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


ON_GPU = [("graph", kind, "bf16") for kind in KINDS] + [("graph", kind, "fp32") for kind in KINDS]
ON_GPU += [("serial", kind, "bf16") for kind in KINDS]
"""In fp32 the two modes are the same. `benchmarks.gpu` reads the mode, which comes first."""


@needs_gpu
@pytest.mark.parametrize(("mode", "kind", "precision"), ON_GPU)
def test_graphs_on_a_gpu_give_the_bits_of_single_operations(
    mode: str, kind: tuple[str, dict[str, Any]], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA graphs and single operations train the same network, bit for bit.

    So does an interrupted run, whose graphs are recorded again at other steps.
    """
    start, changes = kind[0], kind[1] | {"precision": precision}
    monkeypatch.setenv(streams.LAUNCH, "eager")
    meant = trained_with(CudaGraph, monkeypatch, start, changes, device=GPU)
    monkeypatch.setenv(streams.LAUNCH, mode)
    assert trained_with(CudaGraph, monkeypatch, start, changes, device=GPU) == meant
    assert trained_with(CudaGraph, monkeypatch, start, changes, device=GPU, stops=True) == meant


@needs_gpu
def test_epoch_on_a_gpu_never_waits() -> None:
    """The steps of an epoch run while every synchronisation is an error."""

    class Watch(Silence):
        """Forbids synchronisation from the second epoch's first step to its last."""

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
