"""Measurements of both loops on all models, in alternation, and the figures computed from them."""

import gc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from benchmarks import SIDES, ceiling, memory, reference
from benchmarks.loops import LAPS, LOOPS, precision, switch
from benchmarks.watch import Laps, Stopwatch, spread
from benchmarks.workload import EPOCH, PRICED, Arrays, Workload, one_epoch, synthetic
from coopnet.networks import flops
from coopnet.runs import provenance
from coopnet.runs.estimate import cores
from coopnet.study.settings import Experiment
from coopnet.training.device import describe
from coopnet.training.graph import RECORDERS

LAP_STEPS = 3
"""Number of steps for the shares of time."""


class Sample(NamedTuple):
    """One epoch of a loop.

    Attributes:
        images_per_second: training speed after the warm-up.
        evaluation_seconds: after the last step.
        epoch_seconds: of the whole epoch.
        peak: peak bytes of tensors on a GPU; None on the CPU.
    """

    images_per_second: float
    evaluation_seconds: float
    epoch_seconds: float
    peak: int | None


Samples = Mapping[tuple[str, str], Sequence[Sample]]
"""By model and loop, one per repetition."""


def run(workload: Workload, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    """Make all measurements.

    Args:
        workload: what to run.
        device: on which to run it.
        say: called with a description of each measurement.

    Returns:
        The content of `results/bench/<kind>.json`.
    """
    workload.check()
    machine = describe_machine(workload, device)
    rows = {name: one_epoch(row, device) for name, row in workload.rows.items()}
    try:
        say("ceilings of the machine")
        ceilings = measure_ceilings(rows, device, workload.threads)
        samples = repeat(rows, workload, device, say)
        others = {}
        for model, row in rows.items():
            for loop in SIDES:
                say(f"where the time goes and peak memory: {model}, {loop}")
                others[model, loop] = {
                    "time_shares": shares(loop, row, workload, device),
                    "peak_memory_bytes": peak(loop, row, samples[model, loop], workload.threads),
                }
    finally:
        switch("ours", workload.threads)
    return {
        "machine": machine,
        "settings": {
            "batch_size": {name: row.training.batch_size for name, row in rows.items()},
            "images": dict(workload.images),
            "warmup_steps": workload.warmup,
            "repetitions": workload.repetitions,
        },
        "ceiling": ceilings,
        "models": {
            model: {
                **ratio(samples, model),
                **{
                    loop: figures(model, loop, rows, samples, ceilings, workload, device) | others[model, loop]
                    for loop in SIDES
                },
            }
            for model in rows
        },
        "deterministic": price(samples),
    }


def describe_machine(workload: Workload, device: torch.device) -> dict[str, Any]:
    """The machine, and its load before the measurement."""
    libraries = provenance.libraries() | {name: version(name) for name in ("torchvision", "pillow")}
    return {
        "device": describe(device),
        "cores": cores(),
        "threads": workload.threads,
        "reference_workers": reference.WORKERS,
        "libraries": libraries,
        "code": provenance.code(),
        "load_average_before": list(os.getloadavg()),
    }


def measure_ceilings(rows: Mapping[str, Experiment], device: torch.device, threads: int) -> dict[str, Any]:
    """Matrix products per second in every precision in use, and memory bandwidth."""
    switch("ours", threads)
    used = sorted({precision(loop, row, device) for row in rows.values() for loop in SIDES})
    products = {kind: ceiling.matrix_products(device, kind) for kind in used}
    return {"flops_per_second": products, "bytes_per_second": ceiling.bandwidth(device)}


def repeat(
    rows: Mapping[str, Experiment], workload: Workload, device: torch.device, say: Callable[[str], None]
) -> dict[tuple[str, str], list[Sample]]:
    """All samples. The loops alternate, and alternate in going first, so that a drift of the machine affects both."""
    arrays = {name: synthetic(row, workload.images) for name, row in rows.items()}
    samples: dict[tuple[str, str], list[Sample]] = {}
    for repetition in range(workload.repetitions):
        for model, loop in order(rows, repetition):
            say(f"repetition {repetition + 1} of {workload.repetitions}: {model}, {loop}")
            switch(loop, workload.threads)
            sample = measure(loop, rows[model], arrays[model], device, workload.warmup)
            samples.setdefault((model, loop), []).append(sample)
    return samples


def order(models: Iterable[str], repetition: int) -> list[tuple[str, str]]:
    """Models and loops of a repetition; every second one is in reverse order."""
    pairs = [(model, loop) for model in models for loop in (*SIDES, *(("free",) if model == PRICED else ()))]
    return pairs[::-1] if repetition % 2 else pairs


def measure(loop: str, row: Experiment, arrays: Arrays, device: torch.device, warmup: int) -> Sample:
    """One epoch with its evaluation, from new weights.

    If our loop records a step to replay it, the second epoch is measured: the recording is not part of an epoch.
    """
    if loop != "reference" and device.type in RECORDERS:
        row = row.model_copy(update={"training": row.training.model_copy(update={"epochs": 2})})
    watch = Stopwatch(device, warmup)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    LOOPS[loop](row, arrays, device, watch)
    highest = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Sample(watch.images_per_second, watch.evaluation_seconds, watch.epoch_seconds, highest)


def peak(loop: str, row: Experiment, samples: Sequence[Sample], threads: int) -> int:
    """Peak bytes: of tensors on a GPU; of a separate process on the CPU."""
    on_gpu = [sample.peak for sample in samples if sample.peak is not None]
    return max(on_gpu) if on_gpu else memory.on_cpu(loop, row, threads)


def shares(loop: str, row: Experiment, workload: Workload, device: torch.device) -> dict[str, float]:
    """Shares of a step's time: data, forward with the loss, backward, optimiser, metrics.

    The timer waits for the device after each part, so parts that usually overlap do not, and nothing is captured. So
    only the shares are meaningful, not the seconds.
    """
    switch(loop, workload.threads)
    laps = Laps(device, workload.warmup)
    steps = workload.warmup + LAP_STEPS
    LAPS[loop](row, synthetic(row, {"train": steps * row.training.batch_size}), device, laps)
    return laps.shares()


def ratio(samples: Samples, model: str) -> dict[str, Any]:
    """Our speed relative to the reference's in the same repetition: the median, and all ratios."""
    ratios = spread(relative(samples[model, "ours"], samples[model, "reference"]))
    return {"ratio": ratios["median"], "ratios": ratios}


def price(samples: Samples) -> dict[str, Any]:
    """Our speed without deterministic algorithms relative to that with them; empty if that was not measured."""
    if (PRICED, "free") not in samples:
        return {}
    free, ours = samples[PRICED, "free"], samples[PRICED, "ours"]
    prices = spread(relative(free, ours))
    speeds = {name: spread([s.images_per_second for s in some]) for name, some in (("on", ours), ("off", free))}
    return {"model": PRICED, "price": prices["median"], "prices": prices} | speeds


def relative(one: Sequence[Sample], other: Sequence[Sample]) -> list[float]:
    """Speed of one loop relative to another, per repetition."""
    return [a.images_per_second / b.images_per_second for a, b in zip(one, other, strict=True)]


def figures(
    model: str,
    loop: str,
    rows: Mapping[str, Experiment],
    samples: Samples,
    ceilings: Mapping[str, Any],
    workload: Workload,
    device: torch.device,
) -> dict[str, Any]:
    """Figures computed from a loop's times on a model."""
    own, row, first = samples[model, loop], rows[model], next(iter(rows))
    speed = spread([sample.images_per_second for sample in own])
    kind = precision(loop, row, device)
    counted, moved = flops.count(row).step_flops, ceiling.traffic(row, kind)
    return {
        "precision": kind,
        "images_per_second": speed,
        "cost_relative_to_baseline": spread(relative(samples[first, loop], own)),
        "flops_per_image": counted,
        "bytes_per_image": moved,
        "share_of_ceiling": {
            "matrix_products": speed["median"] * counted / ceilings["flops_per_second"][kind]["highest"],
            "bandwidth": speed["median"] * moved / ceilings["bytes_per_second"]["highest"],
        },
        **epoch(own, workload),
    }


def epoch(samples: Sequence[Sample], workload: Workload) -> dict[str, Any]:
    """Seconds of a whole epoch with its evaluation: measured, or scaled from fewer images and named accordingly.

    Scaled seconds use the speed after the warm-up, and scale evaluation by its number of images. That also scales the
    start of the reference's workers for its test images, a fraction of a second.
    """
    if workload.images == EPOCH:
        return {"epoch_seconds": spread([sample.epoch_seconds for sample in samples])}
    scaled = [
        EPOCH["train"] / sample.images_per_second + EPOCH["test"] * sample.evaluation_seconds / workload.images["test"]
        for sample in samples
    ]
    return {"epoch_seconds_scaled_from_fewer_images": spread(scaled)}
