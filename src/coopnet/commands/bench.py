"""`coopnet bench`: compare our training with the plain loop in `benchmarks/`: its speed, and its learning curves."""

import importlib
import logging
import sys
from types import ModuleType
from typing import Any

from coopnet import files, study
from coopnet.files.errors import CoopNetError
from coopnet.runs import terminal
from coopnet.runs.workspace import Workspace

log = logging.getLogger(__name__)

WIDTH = 180


def run(
    workspace: Workspace, device_kind: str | None, images: int | None, test_images: int | None, repetitions: int | None
) -> None:
    """Measure, print and write `results/bench/<cpu or gpu>.json`; options that are None take the device's default."""
    measure, workload, tables = (_part(workspace, name) for name in ("measure", "workload", "tables"))
    rows = study.load(workspace.root).experiments
    device = _device(device_kind)
    default = workload.DEFAULTS[device.type]
    todo = workload.Workload(
        rows={name: rows[name] for name in workload.MODELS},
        images={"train": images or default["train"], "test": test_images or default["test"]},
        warmup=default["warmup"],
        repetitions=repetitions or default["repetitions"],
    )
    report = measure.run(todo, device, log.info)
    path = workspace.results("bench") / ("gpu.json" if device.type == "cuda" else "cpu.json")
    files.write_json(path, report)
    tables.show(report, terminal.console(WIDTH))
    log.info("written to %s", path)


def curves(
    workspace: Workspace, name: str, experiment: str, device_kind: str | None, precision: str | None = None
) -> None:
    """Train the reference on a row's settings and compare it with our histories, in `results/bench/curves.json`.

    With a `precision`, our runs are trained here in that precision, and `curves_<precision>.json` is written.
    """
    suite, workload, tables = (_part(workspace, part) for part in ("curves", "workload", "tables"))
    from coopnet.data import canonical
    from coopnet.training.device import describe, warn_of_emulation

    plan = study.load(workspace.root, name)
    runs = [plan.run(experiment, seed) for seed in plan.seeds(experiment)]
    runs = runs or [plan.run(experiment, 0)]  # raises an error that names the experiment
    if len(runs) < 2:
        raise CoopNetError(f"{experiment} has a single seed in {name}, and no standard deviation; choose another study")
    suite.check(runs[0])
    if precision is None:
        ours = {run.seed: suite.history(workspace.run(plan, run) / "history.csv", run) for run in runs}
    dataset = runs[0].dataset
    arrays = canonical.load(workspace.prepared(dataset.name), dataset)
    device, threads = _device(device_kind or plan.device), workload.cores()
    if precision is not None:
        warn_of_emulation(device, precision)
        ours = {run.seed: suite.train_ours(run, precision, arrays, device, threads, log.info) for run in runs}
    others = {run.seed: suite.train(run, arrays, device, threads, log.info) for run in runs}
    computed = precision or runs[0].row.training.precision
    report: dict[str, Any] = {"study": name, "experiment": experiment, "precision": computed}
    report |= {"device": describe(device)} | suite.compare(ours, others)
    path = workspace.results("bench") / (f"curves_{precision}.json" if precision else "curves.json")
    files.write_json(path, report)
    print(tables.agreement(report), end="")
    log.info("written to %s", path)


def show(workspace: Workspace) -> None:
    """Print the last measurements as Markdown."""
    tables, folder = _part(workspace, "tables"), workspace.results("bench")
    measured = [folder / name for name in ("cpu.json", "gpu.json") if (folder / name).is_file()]
    texts = [tables.markdown(files.read_json(path)) for path in measured]
    texts += [tables.agreement(files.read_json(path)) for path in sorted(folder.glob("curves*.json"))]
    if not texts:
        raise CoopNetError(f"nothing was measured yet in {folder}; run `coopnet bench` first")
    print("\n".join(texts), end="")


def _part(workspace: Workspace, name: str) -> ModuleType:
    """A module of the project's `benchmarks/`, which is not part of the installed package.

    Raises:
        CoopNetError: this folder has no `benchmarks/`.
    """
    if not (workspace.root / "benchmarks" / "__init__.py").is_file():
        raise CoopNetError(
            f"there is no benchmarks/ in {workspace.root.resolve()}; run this in a checkout of the project"
        )
    place = str(workspace.root.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module(f"benchmarks.{name}")


def _device(kind: str | None) -> Any:
    """The requested device; by default a GPU if there is one, else the CPU."""
    import torch

    from coopnet.training.device import choose

    return choose(kind or ("cuda" if torch.cuda.is_available() else "cpu"))
