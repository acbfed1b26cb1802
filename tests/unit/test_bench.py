"""The benchmark: the reference computes the same as our loop, and the report follows from the measurements."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import ceiling, curves, measure, memory, reference, tables, watch
from benchmarks.loops import LOOPS, Nowhere, constants, switch, task
from benchmarks.workload import EPOCH, Workload, architecture, one_epoch, synthetic
from coopnet import study
from coopnet.commands import bench
from coopnet.data.augment import Images
from coopnet.files.errors import CoopNetError
from coopnet.networks.loss import Teaching, loss, rampup
from coopnet.networks.network import CooperativeNetwork, build, trainable_parameters
from coopnet.networks.transfer import TrainedNetwork
from coopnet.runs.setup import load_splits, start
from coopnet.runs.workspace import Workspace
from coopnet.study.settings import Experiment
from coopnet.training.engine import Meters, make_deterministic, train_step
from coopnet.training.graph import RECORDERS
from coopnet.training.optimizer import Optimizer
from coopnet.training.trainer import Row, Task, train
from replay_fixture import Replayer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
BATCH, WIDTH = 16, 4
ROWS = study.load(ROOT).experiments


def small(name: str) -> Experiment:
    """A row of the study with a small network and small batches, for one epoch in float32."""
    row = ROWS[name]
    model = row.model.model_copy(update={"depth": 8, "width": WIDTH})
    row = one_epoch(row.model_copy(update={"model": model}), CPU)
    return row.model_copy(
        update={"training": row.training.model_copy(update={"batch_size": BATCH, "precision": "fp32"})}
    )


def batch(row: Experiment, n: int = BATCH) -> tuple[Tensor, Tensor]:
    """Some normalised images without augmentation, and their labels."""
    split = Images(*synthetic(row, {"train": n})["train"], constants(row)["mean"], constants(row)["std"], CPU)
    return split.plain(torch.arange(n)), split.labels


def teaching(row: Experiment, epoch: int) -> Teaching:
    """The loss of an epoch of a row with on-the-fly distillation."""
    settings: Any = row.training.distillation
    return Teaching("on_the_fly", row.model.gate != "none", settings.temperature, rampup(epoch, settings.rampup))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A complete report at the smallest size, without the processes that measure memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceiling, "SIDE", {"cpu": 64})
        patch.setattr(ceiling, "COPIED", 2**16)
        patch.setattr(memory, "on_cpu", lambda *asked: 123_000_000)
        patch.setattr(measure, "LAP_STEPS", 1)
        rows = {name: small(name) for name in ("baseline", "one3")}
        todo = Workload(rows, {"train": 3 * BATCH, "test": 20}, warmup=1, repetitions=2, threads=1)
        content: dict[str, Any] = json.loads(json.dumps(measure.run(todo, CPU, lambda text: None)))
    return content


@pytest.mark.parametrize("name", ["baseline", "one3"])
@pytest.mark.parametrize("epoch", [0, 40, 80])
def test_reference_minimises_our_loss(name: str, epoch: int) -> None:
    """For the same images and weights both losses are the same number, at every stage of the ramp-up."""
    row = small(name)
    network, (images, labels) = build(architecture(row), 0), batch(row)
    outputs = network(images)
    other = reference.Loop(network, row.training).loss(outputs, outputs.ensemble, labels, epoch)
    assert other.item() == pytest.approx(loss(outputs, labels, teaching(row, epoch)).total.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["baseline", "one3"])
def test_reference_takes_our_steps(name: str) -> None:
    """After two steps on the same images the weights have moved and are equal up to rounding, and so are the meters."""
    row, silence = small(name), watch.Stopwatch(CPU)
    make_deterministic(1)
    images, labels = batch(row, 2 * BATCH)
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    ours = build(architecture(row), 0).to(memory_format=torch.channels_last).train()
    optimizer, meters = Optimizer(ours, row.training.optimizer, {}), Meters(ours.architecture.branches, CPU)
    for one in batches:
        train_step(ours, optimizer, *one, teaching(row, 0), "fp32", meters)
        meters.images += len(one[1])
    other = build(architecture(row), 0)
    silence.begin(0, 1, len(labels), 0)
    shown = reference.Loop(other, row.training).train(batches, 0, silence)  # type: ignore[arg-type]
    start = build(architecture(row), 0).state_dict()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, ours.state_dict()[key].contiguous(), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(other.state_dict()["branches.0.classifier.weight"], start["branches.0.classifier.weight"])
    assert shown == pytest.approx({key: meters.row("train")[key] for key in shown}, rel=1e-4)
    assert {key for key in meters.row("train") if "top" in key or key == "train_loss"} == shown.keys()


def test_reference_sees_the_images_that_we_see() -> None:
    """Without augmentation an image has the same pixels in both; each crop of the reference is one of our 162."""
    row = small("baseline")
    arrays, mean, std = synthetic(row, {"train": 1})["train"], constants(row)["mean"], constants(row)["std"]
    split = Images(*arrays, mean, std, CPU)
    plain = reference.Pictures(*arrays, reference.transform(mean, std, False))[0][0]
    torch.testing.assert_close(plain, split.plain(torch.zeros(1, dtype=torch.long))[0])
    grid = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2))
    ours = split.augmented(torch.zeros(len(grid), dtype=torch.long), grid[:, :2], grid[:, 2].bool())
    pictures = reference.Pictures(*arrays, reference.transform(mean, std, True))
    torch.manual_seed(0)
    found = {int((ours - pictures[0][0]).abs().amax(dim=(1, 2, 3)).argmin()) for _ in range(12)}
    assert len(found) > 6
    assert all((ours - pictures[0][0]).abs().amax(dim=(1, 2, 3)).min() < 1e-5 for _ in range(12))


def test_reference_learns_and_evaluates_like_ours() -> None:
    """On images that are easy to distinguish its loss falls over the epochs, and its test columns are those of ours."""
    row = small("one3")
    training = row.training.model_copy(update={"epochs": 2, "test_every": 2})
    arrays = synthetic(row, {"train": 4 * BATCH, "test": 10})
    for images, labels in arrays.values():
        labels %= 2
        images[labels == 0] //= 8
    network, silence = build(architecture(row), 0), watch.Stopwatch(CPU)
    history = reference.train(network, training, arrays, constants(row), augment=False, seed=0, progress=silence)
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert "test_loss" not in history[0]
    assert {"test_loss", "test_top1_ensemble", "test_top5_branch3"} < history[1].keys()


def test_both_loops_start_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loops receive networks with the same bits."""
    row, given = small("one3"), []

    def caught(network: CooperativeNetwork, *rest: Any, **named: Any) -> None:
        given.append(network.state_dict())

    monkeypatch.setattr(reference, "train", caught)
    arrays = synthetic(row, {"train": BATCH})
    LOOPS["reference"](row, arrays, CPU, watch.Stopwatch(CPU))
    ours = task(row, arrays, CPU).initial.network.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in given[0].items())


def test_ours_is_deterministic_and_the_others_are_free() -> None:
    """Deterministic algorithms are on only for our loop, and on again afterwards."""
    try:
        for loop, mode in (("reference", 0), ("free", 0), ("ours", 2)):
            switch(loop, 1)
            assert torch.get_deterministic_debug_mode() == mode
            assert torch.backends.cudnn.benchmark == (loop != "ours")
    finally:
        switch("ours", 1)


def test_speed_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 images in batches of 10, the first in 10 s, the others in 4 s, evaluation in 1 s: 5 images/s, by hand."""
    times = iter([0.0, 10.0, 14.0, 15.0])
    monkeypatch.setattr(watch, "now", lambda device: next(times))
    clock = watch.Stopwatch(CPU, warmup=1)
    clock.begin(0, 1, 30, 0)
    for _ in range(3):
        clock.advance(10)
    clock.end({}, {})
    assert (clock.images_per_second, clock.evaluation_seconds, clock.epoch_seconds) == (5.0, 1.0, 15.0)


def test_speed_is_that_of_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier epochs do not count: 20 images in 6 s, and 3 s of evaluation, by hand."""
    times = iter([0.0, 50.0, 100.0, 190.0, 200.0, 204.0, 210.0, 213.0])
    monkeypatch.setattr(watch, "now", lambda device: next(times))
    clock = watch.Stopwatch(CPU, warmup=1)
    for epoch in range(2):
        clock.begin(epoch, 2, 30, 0)
        for images in (10, 20):
            clock.advance(images)
        clock.end({}, {})
    assert (clock.images_per_second, clock.evaluation_seconds, clock.epoch_seconds) == (20 / 6, 3.0, 13.0)


def test_epoch_in_which_steps_are_recorded_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """If our loop replays its steps it trains for two epochs, and the second one counts; the reference needs one."""
    asked: list[tuple[str, int]] = []

    def loop(name: str) -> Any:
        def trained(row: Experiment, arrays: Any, device: torch.device, clock: watch.Stopwatch) -> None:
            asked.append((name, row.training.epochs))
            clock.begin(0, 1, BATCH, 0)
            clock.advance(BATCH)
            clock.end({}, {})

        return trained

    for name in ("ours", "free", "reference"):
        monkeypatch.setitem(LOOPS, name, loop(name))
        measure.measure(name, small("one3"), {}, CPU, 0)
    monkeypatch.setitem(RECORDERS, "cpu", Replayer)
    for name in ("ours", "free", "reference"):
        measure.measure(name, small("one3"), {}, CPU, 0)
    assert asked == [
        *(("ours", 1), ("free", 1), ("reference", 1)),
        *(("ours", 2), ("free", 2), ("reference", 1)),
    ]


def test_loops_take_turns_in_going_first() -> None:
    """Every repetition runs the same pairs, every second one in reverse order."""
    one, two, three = (measure.order(["baseline", "one3"], repetition) for repetition in range(3))
    assert one == three == two[::-1]
    assert {loop for _, loop in one} == {"ours", "reference", "free"}


def test_traffic_is_that_of_every_convolution() -> None:
    """Bytes of a training image of ResNet-8, calculated layer by layer by hand."""
    row, w = small("baseline"), WIDTH
    shapes = [(3 * 1024, w * 1024), (w * 1024, w * 1024), (w * 1024, w * 1024)]
    for inputs, outputs in ((w * 1024, 2 * w * 256), (2 * w * 256, 4 * w * 64)):
        shapes += [(inputs, outputs), (outputs, outputs), (inputs, outputs)]  # the last is the projection
    shapes += [(4 * w, 100)]
    activations = sum(3 * inputs + 2 * outputs for inputs, outputs in shapes) - 3 * 1024
    parameters = trainable_parameters(build(architecture(row), 0))
    assert ceiling.traffic(row, "fp32") == pytest.approx(4 * activations + 32 * parameters / BATCH)
    assert ceiling.traffic(row, "bf16") == pytest.approx(2 * activations + 28 * parameters / BATCH)


def test_memory_is_that_of_a_process_of_its_own() -> None:
    """It is at least the size of the padded images, and does not include the memory of this process."""
    images, ballast = 20_000, torch.ones(2**30, dtype=torch.uint8)
    used = memory.on_cpu("ours", small("baseline"), 1, images)
    assert images * (32 * 32 + 40 * 40) * 3 < used < memory.peak()
    assert len(ballast) < memory.peak()


def test_report_has_what_it_promises(report: dict[str, Any]) -> None:
    """Every figure of every model and loop, each with its spread, and the description of the machine."""
    assert report.keys() == {"machine", "settings", "ceiling", "models", "deterministic"}
    assert report["models"].keys() == {"baseline", "one3"}
    for model in report["models"].values():
        assert model.keys() == {"ratio", "ratios", "ours", "reference"}
        for loop in ("ours", "reference"):
            own = model[loop]
            for name in ("images_per_second", "cost_relative_to_baseline", tables.SCALED):
                assert own[name].keys() == {"median", "lowest", "highest", "samples"}
                assert len(own[name]["samples"]) == 2
            assert own["peak_memory_bytes"] == 123_000_000
            assert own["time_shares"].keys() == set(tables.PARTS)
            assert sum(own["time_shares"].values()) == pytest.approx(1)
            assert own["share_of_ceiling"].keys() == {"matrix_products", "bandwidth"}
    machine = report["machine"]
    assert machine["device"]["type"] == "cpu"
    assert (machine["threads"], machine["reference_workers"]) == (1, 4)
    assert {"torch", "torchvision", "pillow", "python"} < machine["libraries"].keys()
    assert len(machine["load_average_before"]) == 3


def test_ratios_follow_from_the_speeds_beside_them(report: dict[str, Any]) -> None:
    """Ratio, price and cost are medians of quotients of samples in the same report."""

    def speeds(model: str, loop: str) -> list[float]:
        samples: list[float] = report["models"][model][loop]["images_per_second"]["samples"]
        return samples

    def quotient(one: Sequence[float], other: Sequence[float]) -> float:
        return median(a / b for a, b in zip(one, other, strict=True))

    for model in report["models"]:
        assert report["models"][model]["ratio"] == quotient(speeds(model, "ours"), speeds(model, "reference"))
        for loop in ("ours", "reference"):
            cost = report["models"][model][loop]["cost_relative_to_baseline"]["median"]
            assert cost == pytest.approx(quotient(speeds("baseline", loop), speeds(model, loop)))
            own = report["models"][model][loop]
            rate = report["ceiling"]["flops_per_second"][own["precision"]]["highest"]
            share = own["images_per_second"]["median"] * own["flops_per_image"] / rate
            assert own["share_of_ceiling"]["matrix_products"] == pytest.approx(share)
    priced = report["deterministic"]
    assert priced["model"] == "one3"
    assert priced["on"]["samples"] == speeds("one3", "ours")
    assert priced["price"] == quotient(priced["off"]["samples"], priced["on"]["samples"])


def test_scaled_epoch_says_so() -> None:
    """100 images/s and 2 s for 1,000 test images: 520 s, by hand, under a name that says that it is scaled."""
    rows = {"baseline": small("baseline")}
    sample = measure.Sample(100.0, 2.0, 9.0, None)
    few = Workload(rows, {"train": 500, "test": 1000}, 1, 1)
    assert measure.epoch([sample], few)["epoch_seconds_scaled_from_fewer_images"]["median"] == pytest.approx(520)
    whole = measure.epoch([sample], Workload(rows, EPOCH, 1, 1))
    assert list(whole) == ["epoch_seconds"]
    assert whole["epoch_seconds"]["median"] == 9.0


def test_tables_show_the_figures(report: dict[str, Any]) -> None:
    """One row per model and loop in each table, with the median of the report; the same bytes every time."""
    text = tables.markdown(report)
    assert text == tables.markdown(json.loads(json.dumps(report)))
    for model in report["models"]:
        for loop in ("ours", "reference"):
            (line,) = [line for line in text.splitlines() if line.startswith(f"| {model} | {loop} |")]
            assert f"{report['models'][model][loop]['images_per_second']['median']:,.0f}" in line
        assert f"{report['models'][model]['ratio']:.2f}" in text
    sides = [[model, loop] for model in ("baseline", "one3") for loop in ("ours", "reference")]
    assert [[row[:2] for row in table.rows] for table in tables.tables(report)] == [sides] * 3


def workspace(folder: Path) -> Workspace:
    """A folder with the study and the benchmark, and an earlier result."""
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / "results/bench").mkdir(parents=True)
    (folder / "results/bench/cpu.json").write_text("older\n")
    return Workspace(folder)


def test_interruption_leaves_the_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption with Ctrl-C leaves the file unchanged and creates no other file."""

    def interrupted(*asked: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ceiling, "SIDE", {"cpu": 64})
    monkeypatch.setattr(ceiling, "COPIED", 2**16)
    monkeypatch.setitem(LOOPS, "ours", interrupted)
    place = workspace(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bench.run(place, "cpu", None, None, None)
    assert [path.name for path in (tmp_path / "results/bench").iterdir()] == ["cpu.json"]
    assert (tmp_path / "results/bench/cpu.json").read_text() == "older\n"
    make_deterministic(1)


def test_result_is_written_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The measurement replaces the earlier file as a whole; all its tables are printed, by `show` only the speeds."""
    monkeypatch.setattr(measure, "run", lambda *asked: report)
    place = workspace(tmp_path)
    bench.run(place, "cpu", None, None, None)
    assert json.loads((tmp_path / "results/bench/cpu.json").read_text()) == report
    printed = capsys.readouterr().out
    assert all(table.title in printed for table in tables.tables(report))
    bench.show(place)
    assert capsys.readouterr().out == tables.markdown(report)


def test_clear_refusals(tmp_path: Path) -> None:
    """Errors without benchmarks/, with too few images, and for rows that the reference cannot train."""
    with pytest.raises(CoopNetError, match="there is no benchmarks/"):
        bench.show(Workspace(tmp_path))
    with pytest.raises(CoopNetError, match="--images 16: 1 step of 16 images"):
        Workload({"baseline": small("baseline")}, {"train": 16, "test": 1}, 1, 1).check()
    runs = study.load(ROOT).runs
    for name in ("one3_to_5_masked", "baseline_gradient_ratio"):
        with pytest.raises(CoopNetError, match="not possible with the reference"):
            curves.check(runs[name, 0])
    curves.check(runs["one3", 0])


def histories(*losses: tuple[float, float]) -> dict[int, list[Row]]:
    """Two epochs of each seed."""
    return {
        seed: [{"train_loss": first}, {"train_loss": last, "test_top1_ensemble": 50.0 + seed}]
        for seed, (first, last) in enumerate(losses)
    }


def test_curves_are_compared_by_the_rule() -> None:
    """Two seeds by hand: means, standard deviations with n − 1, and two standard errors as the limit."""
    compared = curves.compare(histories((2.0, 1.0), (2.0, 1.2)), histories((2.1, 1.1), (2.1, 1.3)))
    last = compared["comparisons"]["last_epoch_loss"]
    assert last["ours"]["mean"] == pytest.approx(1.1)
    assert last["ours"]["std"] == pytest.approx(0.02**0.5)
    assert last["difference"] == pytest.approx(-0.1)
    assert last["standard_error"] == pytest.approx(0.02**0.5)
    assert last["within"]
    assert [epoch["within"] for epoch in compared["epochs"]] == [False, True]
    assert compared["within_spread"]  # in the mean over the epochs 0.1 apart, of a standard error of 0.071
    apart = curves.compare(histories((2.0, 1.0), (2.0, 1.2)), histories((2.3, 1.4), (2.3, 1.6)))
    assert not apart["comparisons"]["last_epoch_loss"]["within"]
    assert not apart["within_spread"]
    assert apart["comparisons"]["test_top1"]["within"]
    with pytest.raises(CoopNetError, match="one seed"):
        curves.compare(histories((2.0, 1.0)), histories((2.0, 1.0)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_curves_of_ours_are_those_of_the_study_in_that_precision(precision: str) -> None:
    """A run that is trained for a comparison has the history of the study, except for precision and test images."""
    run = study.load(ROOT, "mini").runs["one3", 1]
    model = run.row.model.model_copy(update={"depth": 8, "width": WIDTH})
    training = run.row.training.model_copy(update={"epochs": 2, "batch_size": BATCH, "precision": precision})
    data = run.row.data.model_copy(update={"training_subset": 100})
    row = run.row.model_copy(update={"model": model, "training": training, "data": data})
    run = dataclasses.replace(run, row=row)
    arrays, said = synthetic(row, {"train": 300, "test": 20}), list[str]()
    make_deterministic(1)
    splits = load_splits(run, arrays, CPU)
    network = start(run, [], splits["training"]).initial.network.to(memory_format=torch.channels_last)
    meant = train(
        Task(TrainedNetwork(network, {}), row.training, splits, augment=True, seed=run.seed),
        Nowhere(),
        watch.Stopwatch(CPU),
        lambda: None,
    )
    shown = curves.train_ours(run, precision, arrays, CPU, 1, said.append)
    columns = [name for name in shown[0] if not name.startswith("test")]
    assert [[epoch[name] for name in columns] for epoch in shown] == [
        [epoch[name] for name in columns] for epoch in meant.history
    ]
    assert "test_top1_ensemble" not in shown[0]
    assert shown[1]["test_top1_ensemble"] == meant.history[1]["test_top1_ensemble"]
    assert said[0].startswith(f"ours in {precision} one3/seed1  epoch 1/2")


def committed() -> list[str]:
    """The measurements in the repository."""
    listed = subprocess.run(["git", "ls-files", "results/bench"], cwd=ROOT, capture_output=True, text=True).stdout
    return sorted(listed.split())


@pytest.mark.parametrize("name", committed())
def test_documentation_shows_the_committed_measurements(name: str) -> None:
    """Every committed measurement appears verbatim between its marks in the README or a page of the docs."""
    render = tables.agreement if Path(name).name.startswith("curves") else tables.markdown
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    shown = [page.read_text().partition(f"<!-- {name} -->\n")[2].partition("<!-- end -->")[0] for page in pages]
    assert render(json.loads((ROOT / name).read_text())) in shown
