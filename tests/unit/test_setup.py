"""The start of a run, with images of its row and of its own seed, and the files at its end."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import ROOT
from coopnet import files, study
from coopnet.data.augment import Images
from coopnet.data.datasets import DATASETS
from coopnet.data.normalization import normalization
from coopnet.data.seeding import derive
from coopnet.data.splits import split
from coopnet.files.errors import CoopNetError
from coopnet.networks.network import Architecture, build
from coopnet.networks.planned import architecture_of
from coopnet.networks.transfer import TrainedNetwork
from coopnet.report.tables import origins
from coopnet.report.topics import provenance as topic
from coopnet.runs import checkpoint, job, provenance, setup
from coopnet.runs.setup import load_splits, some_images
from coopnet.study import Run
from coopnet.study.settings import Masked
from coopnet.training import device
from coopnet.training.engine import logits
from coopnet.training.schedule import Opening
from training_fixture import CPU, WIDTH, Silence, never

FULL = study.load(ROOT)


def run(experiment: str, seed: int = 0, **data: Any) -> Run:
    """A planned run of this project with a small network, 40 of 100 training images, and changed data settings."""
    planned = FULL.runs[experiment, 0]
    model = planned.row.model.model_copy(update={"depth": 8, "width": WIDTH})
    changed = planned.row.data.model_copy(update={"training_subset": 40, "validation": 20} | data)
    row = planned.row.model_copy(update={"model": model, "data": changed})
    return dataclasses.replace(planned, seed=seed, row=row)


def arrays(train: int = 100, test: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images and labels of 10 classes."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10)
        for name, count in (("train", train), ("test", test))
    }


def held(count: int) -> Images:
    """Images on the CPU, each with its own shade of grey."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 32, 3))
    return Images(pixels, np.arange(count), [0.0] * 3, [1.0] * 3, CPU)


def greys(batches: Iterator[Tensor]) -> list[int]:
    """The indices of these images in `held`, in order."""
    return [round(255 * image[0, 0, 0].item()) for batch in batches for image in batch]


def test_images_of_a_transfer_are_drawn_by_seed() -> None:
    """The requested number of different images, the same for the same seed; all images without a number."""
    images = held(200)
    first, again, other = (greys(some_images(images, 50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first)) == 50
    assert len(set(first) & set(other)) < 40  # 12.5 on average
    assert first != sorted(first)
    everything = greys(some_images(images, None, 1))
    assert sorted(everything) == list(range(200))
    assert everything[:50] == first


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (5, [3, 2]), (9, [3, 3, 3])])
def test_images_of_a_transfer_come_in_batches_of_about_equal_size(
    monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]
) -> None:
    """No batch is larger than the limit or much smaller than the others; a small last one would count too much."""
    monkeypatch.setattr(setup, "TRANSFER_BATCH", 4)
    assert [len(batch) for batch in some_images(held(count), None, 0)] == sizes


def test_a_merge_looks_at_images_of_its_own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of a row use different training images, and the same seed uses the same ones at each pass."""
    chosen: list[Callable[[], Iterator[Tensor]]] = []

    def merge(parents: Any, *, images: Callable[[], Iterator[Tensor]], **options: Any) -> Any:
        chosen.append(images)
        return parents[0]

    monkeypatch.setattr(setup, "merge", merge)
    images = held(200)
    parents = [TrainedNetwork(build(Architecture("cifar_resnet", 8, "basic", WIDTH, 1, "none", 100), 0), {})] * 3
    for seed in (0, 1):
        planned = run("merge3_refit", seed)
        limited = planned.row.model_copy(update={"start": planned.row.start.model_copy(update={"images": 50})})
        setup.start(dataclasses.replace(planned, row=limited, transfer=None), parents, images)
    first, again, other = greys(chosen[0]()), greys(chosen[0]()), greys(chosen[1]())
    assert first == again
    assert len(first) == 50
    assert len(set(first) & set(other)) < 40


@pytest.mark.parametrize(("count", "side", "sizes"), [(501, 1, [251, 250]), (251, 64, [84, 84, 83]), (2, 800, [1, 1])])
def test_a_transfer_looks_at_fewer_large_images_at_once(count: int, side: int, sizes: list[int]) -> None:
    """At most 500 images of 32 × 32 pixels are held, or as many pixels of larger images, but one image at least."""
    images = Images(np.zeros((count, side, side, 3), np.uint8), np.zeros(count), [0.0] * 3, [1.0] * 3, CPU)
    assert [len(batch) for batch in some_images(images, None, 0)] == sizes


def test_initial_weights_depend_on_the_seed_of_the_run() -> None:
    """A random start is the network that the weight seed of the run builds, with the teacher if the row has one."""
    images = held(10)
    for seed in (0, 1):
        planned = run("one3", seed)
        expected = build(architecture_of(planned.row.model, planned.dataset), derive(seed, "weights")).state_dict()
        begun = setup.start(planned, [], images)
        assert all(torch.equal(expected[name], one) for name, one in begun.initial.network.state_dict().items())
        assert begun.initial.optimizer_state == {}
        assert begun.teacher is None
    assert setup.start(planned, [begun.initial], images).teacher is begun.initial.network


def test_training_after_a_transfer_begins_with_its_network() -> None:
    """The network at transfer is taken as it is, and the prior opens as the row says."""
    network = TrainedNetwork(build(Architecture("cifar_resnet", 8, "basic", WIDTH, 5, "learned", 100), 0), {})
    planned = run("one3_to_5_masked")
    masked = planned.row.start
    assert isinstance(masked, Masked)
    begun = setup.start(planned, [network], held(10))
    assert begun.initial is network
    assert begun.opening == Opening((3, 4), masked.closed_until, masked.open_from)
    closed = planned.row.model_copy(update={"start": masked.model_copy(update={"opens": False})})
    assert setup.start(dataclasses.replace(planned, row=closed), [network], held(10)).opening is None
    assert setup.start(run("one3_to_5_split"), [network], held(10)).opening is None


@pytest.mark.parametrize(
    ("experiment", "options"),
    [("one3_to_5_split", {"donors", "noise"}), ("one3_to_5_masked", set()), ("one3_to_5_zero_pad", set())],
)
def test_growth_is_that_of_the_row(monkeypatch: pytest.MonkeyPatch, experiment: str, options: set[str]) -> None:
    """Kind, number of branches, donors and noise are the row's; the seed is that of the run's weights."""
    grown = list[tuple[Any, ...]]()
    planned = run(experiment, 1)
    parent = TrainedNetwork(build(Architecture("cifar_resnet", 8, "basic", WIDTH, 3, "learned", 100), 0), {})

    def expand(*arguments: Any, **named: Any) -> TrainedNetwork:
        grown.append((*arguments, named))
        return parent

    monkeypatch.setattr(setup, "expand", expand)
    begun = setup.start(dataclasses.replace(planned, transfer=None), [parent], held(10))
    assert begun == setup.Beginning(parent)
    expected = {name: getattr(planned.row.start, name) for name in options}
    assert grown == [(parent, 5, {"kind": planned.row.start.kind, "seed": derive(1, "weights")} | expected)]


def test_a_checkpoint_of_another_architecture_is_refused() -> None:
    """A continued run takes its parent if the row describes it, and names both if not."""
    planned = run("one3_continued")
    same = TrainedNetwork(build(architecture_of(planned.row.model, planned.dataset), 0), {})
    planned = dataclasses.replace(planned, transfer=None)
    assert setup.start(planned, [same], held(10)).initial is same
    other = TrainedNetwork(build(dataclasses.replace(same.network.architecture, branches=2), 0), {})
    with pytest.raises(CoopNetError, match=r"one3_continued/seed0 starts from is .*'branches': 2.* row asks for"):
        setup.start(planned, [other], held(10))


def test_images_stay_in_memory_if_they_need_over_half_of_the_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Padded images have 40 × 40 pixels of three bytes; a device that does not say how much is free has enough."""
    planned, need = run("one3"), 30 * 40 * 40 * 3
    for room, fits in ((None, True), (2 * need, True), (2 * need - 1, False)):
        monkeypatch.setattr(setup, "free_memory", lambda where, room=room: room)
        caplog.clear()
        with caplog.at_level("INFO"):
            assert setup.fit_on(CPU, [10, 20], planned) is fits
        said = "one3/seed0: the images stay in memory or on disk, as cpu has not enough free memory for them"
        assert caplog.messages == ([] if fits else [said])
    parts = load_splits(planned, arrays(), CPU).values()
    assert [images.padded for images in parts] == [None] * 3


def test_splits_are_those_of_the_row() -> None:
    """Training and validation are disjoint parts of the training images, determined by the row's split seed."""
    found, source = load_splits(run("one3"), arrays(), CPU), arrays()
    data = run("one3").row.data
    chosen = split(source["train"][1], validation=20, subset=40, seed=data.split_seed)
    parts = {"training": chosen.training, "validation": chosen.validation}
    for name, indices in parts.items():
        assert torch.equal(found[name].padded[:, 4:36, 4:36], torch.from_numpy(source["train"][0][indices])), name
        assert found[name].labels.tolist() == source["train"][1][indices].tolist()
    assert torch.equal(found["test"].padded[:, 4:36, 4:36], torch.from_numpy(source["test"][0]))
    assert load_splits(run("one3", validation=0), arrays(), CPU).keys() == {"training", "test"}


@pytest.mark.parametrize("kind", ["dataset", "lan2018"])
def test_images_are_normalised_as_the_row_says(kind: str) -> None:
    """White is (1 − mean) / std with the row's constants, in every split."""
    white = {name: (np.full_like(images, 255), labels) for name, (images, labels) in arrays().items()}
    planned = run("one3", normalization=kind)
    constants = {
        "dataset": DATASETS[planned.row.data.dataset],
        "lan2018": type("Lan", (), {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}),
    }[kind]
    expected = (1 - torch.tensor(constants.mean)) / torch.tensor(constants.std)
    for images in load_splits(planned, white, CPU).values():
        torch.testing.assert_close(images.plain(torch.tensor([0]))[0, :, 5, 5], expected)


@pytest.mark.parametrize(("augmentation", "augment"), [("crop_flip", True), ("none", False)])
def test_a_row_without_augmentation_is_trained_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, augmentation: str, augment: bool
) -> None:
    """The row's augmentation and the run's seed are passed to the training; weights are in channels-last order."""
    asked: list[tuple[bool, int, bool]] = []

    class Enough(Exception):
        """Ends the test before any training."""

    def train(task: Any, *others: Any) -> None:
        weight = task.initial.network.trunk.stem[0].weight
        asked.append((task.augment, task.seed, weight.is_contiguous(memory_format=torch.channels_last)))
        raise Enough

    monkeypatch.setattr(job, "train", train)
    with pytest.raises(Enough):
        job.produce(
            run("one3", 5, augmentation=augmentation),
            arrays=arrays(),
            ancestors=[],
            device_kind="cpu",
            folder=tmp_path,
            progress=Silence(),
            stop=never,
        )
    assert asked == [(augment, 5, True)]


def produced(planned: Run, folder: Path, ancestors: Sequence[Any] = ()) -> tuple[Path, dict[str, Any]]:
    """Train a run; its files and its record."""
    made = job.produce(
        planned,
        arrays=arrays(),
        class_names=["a"] * 10,
        ancestors=ancestors,
        device_kind="cpu",
        folder=folder,
        progress=Silence(),
        stop=never,
    )
    return made, files.read_sealed(made / "run.json")


@pytest.mark.parametrize("limit", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"])
def test_a_cpu_is_described_with_what_limits_its_instructions(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Variables that are not set are not in the record; those that are set are in its table, and the report says so."""
    for name in device.INSTRUCTION_LIMITS:
        monkeypatch.delenv(name, raising=False)
    free = device.describe(CPU)
    assert "limits" not in free
    monkeypatch.setenv(limit, "AVX2")
    assert device.describe(CPU) == free | {"limits": [f"{limit}=AVX2"]}
    shown = origins._device(device.describe(CPU))
    assert shown.endswith(f"; limits {limit}=AVX2")
    assert topic._machine(shown) == f"cpu: {free['name']}, {free['capability']}, limited"


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ("cpu: A; capability AVX2; instructions avx2", "cpu: A, AVX2"),
        ("cpu: A; capability AVX2; instructions avx2, avx512f", "cpu: A, AVX2, limited"),
        ("cpu: A; capability AVX512; instructions avx2, avx512f", "cpu: A, AVX512"),
        ("cpu: A; capability AVX512; limits ONEDNN_MAX_CPU_ISA=AVX2", "cpu: A, AVX512, limited"),
        ("cuda: H100; capability 9.0; cuda 12.8; cudnn 91002", "cuda: H100, 9.0"),
        ("cpu: A; B", "cpu: A"),
    ],
)
def test_a_report_says_which_cpus_were_limited(known: str, shown: str) -> None:
    """A CPU that used AVX2 although it has AVX512 was limited, even if an old record does not say how."""
    assert topic._machine(known) == shown


def test_files_of_a_run_are_those_of_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record describes the run and the digest of each file; the logits are those of the saved network."""
    prepared = list[Any]()
    monkeypatch.setattr(job, "make_deterministic", prepared.append)
    monkeypatch.setattr(device, "warn_of_emulation", lambda *arguments: prepared.append(arguments))
    planned = run("one3", 1)
    short = planned.row.training.model_copy(update={"epochs": 1, "batch_size": 20, "precision": "fp32"})
    planned = dataclasses.replace(planned, row=planned.row.model_copy(update={"training": short}))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "unfinished").touch()
    made, record = produced(planned, tmp_path)
    assert prepared == [planned.threads, (CPU, "fp32")]
    assert made == tmp_path / "files"
    kept = {path.name: files.sha256(path) for path in made.iterdir() if path.name not in ("run.json", "timing.csv")}
    names = ["history.csv", "logits.safetensors", "model.safetensors", "optimizer.safetensors"]
    assert sorted(kept) == names
    assert (made / "timing.csv").is_file()
    trained = checkpoint.read(made, record)
    assert set(trained.optimizer_state) == {"momentum_buffer"}
    expected = {
        "architecture": architecture_of(planned.row.model, planned.dataset).to_dict(),
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "row": planned.row.decisive(),
        "seed": 1,
        "threads": planned.threads,
        "selected_epoch": 0,
        "parents": [],
        "data": {"dataset": "cifar100", "digest": DATASETS["cifar100"].digest},
        "preprocessing": normalization(planned.dataset, planned.row.data.normalization),
        "files": kept,
        "key": planned.key,
        "device": device.describe(CPU),
        "libraries": provenance.libraries(),
        "code": provenance.code(),
    }
    assert record == expected
    stored, parts = checkpoint.read_tensors(made / "logits.safetensors"), load_splits(planned, arrays(), CPU)
    for name in ("test", "validation"):
        outputs = logits(trained.network, parts[name])
        assert torch.equal(stored[f"{name}/branches"], outputs["branches"])
        assert torch.equal(stored[f"{name}/gate"], outputs["gate"])
        assert torch.equal(stored[f"{name}/labels"], parts[name].labels.to(torch.uint8))
    assert len(stored) == 6
    child = run("one3_continued", 1)
    still = child.row.training.model_copy(update={"epochs": 0, "precision": "fp32"})
    child = dataclasses.replace(child, transfer=None, row=child.row.model_copy(update={"training": still}))
    continued, descent = produced(child, tmp_path / "child", [(made, record)])
    assert descent["parents"] == [{"key": record["key"], "digest": kept["model.safetensors"]}]
    assert (continued / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    assert (continued / "logits.safetensors").read_bytes() == (made / "logits.safetensors").read_bytes()


def test_labels_need_four_bytes_above_256_classes() -> None:
    """Logits are kept with labels of one byte as long as these suffice."""
    for classes, kind in ((256, torch.uint8), (257, torch.int32)):
        network = build(Architecture("cifar_resnet", 8, "basic", WIDTH, 1, "none", classes), 0)
        images = Images(arrays()["test"][0], np.arange(classes - 10, classes), [0.0] * 3, [1.0] * 3, CPU)
        found = job.all_logits(TrainedNetwork(network, {}), {"test": images})
        assert found.keys() == {"test/branches", "test/gate", "test/labels"}
        assert found["test/labels"].dtype == kind
        assert found["test/labels"].tolist() == list(range(classes - 10, classes))


def test_record_names_parents_and_the_network_at_transfer() -> None:
    """A run after a transfer has the parents of the transfer; any other has the checkpoints that it read."""
    parents = [{"key": name, "files": {"model.safetensors": f"digest of {name}"}} for name in ("a", "b")]
    named = [{"key": name, "digest": f"digest of {name}"} for name in ("a", "b")]
    assert job.descent(run("one3"), parents) == {"parents": named}
    transfer = {"key": "t", "files": {"model.safetensors": "digest of t"}, "parents": named}
    assert job.descent(run("one3_to_5_split"), [transfer]) == {
        "parents": named,
        "transfer": {"key": "t", "digest": "digest of t"},
    }


def test_memory_is_limited_by_every_control_group_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's limit holds in its steps and tasks, however deep these are, and so do tighter ones below."""
    root, limits = Path("/sys/fs/cgroup"), {"job_7": 6_000, "job_7/step_0": 4_000}

    def lines(path: Path) -> list[str]:
        return ["0::/job_7/step_0/user/task_0"] if path == Path("/proc/self/cgroup") else []

    def number(path: Path) -> int | None:
        folder = str(path.parent.relative_to(root))
        return {"memory.max": limits.get(folder), "memory.current": 1_000}[path.name]

    monkeypatch.setattr(device, "_lines", lines)
    monkeypatch.setattr(device, "_number", number)
    assert sorted(device._control_groups()) == [3_000, 5_000]
