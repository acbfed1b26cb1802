"""Images per second of our loop on a plain network, three and five branches, and a profile of three branches.

    python -m benchmarks.speed --out FOLDER

Writes `speed.json` and then `profile.txt`. `coopnet bench` measures more, compares with a plain loop, and takes longer.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.loops import ours, switch
from benchmarks.watch import Stopwatch
from benchmarks.workload import EPOCH, MODELS, PRICED, one_epoch, synthetic
from coopnet import files, study
from coopnet.runs import provenance
from coopnet.training.device import choose, describe

FOLDER = Path(__file__).parent.parent
PROFILED = 10
"""Number of full batches in the profile."""


def main(
    out: Annotated[Path, typer.Option(help="folder for the results")],
    device: str = "cuda",
    images: Annotated[int, typer.Option(help="training images per epoch")] = EPOCH["train"],
    test_images: int = EPOCH["test"],
) -> None:
    """Measure the second epoch of each network, which is free of recordings, and write the results."""
    where = choose(device)
    switch("ours", 1)
    rows = {name: one_epoch(study.load(FOLDER).experiments[name], where) for name in MODELS}
    report = {"device": describe(where), "libraries": provenance.libraries(), "code": provenance.code()}
    report |= {"images": {"train": images, "test": test_images}, "models": {}}
    for name, row in rows.items():
        arrays = synthetic(row, report["images"])
        watch = Stopwatch(where, min(20, images // row.training.batch_size - 1))
        ours(row.model_copy(update={"training": row.training.model_copy(update={"epochs": 2})}), arrays, where, watch)
        report["models"][name] = {
            "branches": row.model.branches,
            "precision": row.training.precision,
            "images_per_second": watch.images_per_second,
            "epoch_seconds": watch.epoch_seconds,
            "evaluation_seconds": watch.evaluation_seconds,
        }
        print(name, {key: value for key, value in report["models"][name].items() if key != "branches"}, flush=True)
        files.write_json(out / "speed.json", report)
    row = rows[PRICED]
    arrays = synthetic(row, {"train": min(images, PROFILED * row.training.batch_size), "test": test_images})
    with torch.profiler.profile() as profile:
        ours(row, arrays, where, Stopwatch(where))
    by = "self_cuda_time_total" if where.type == "cuda" else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=by, row_limit=60, max_name_column_width=90)
    files.write_text(out / "profile.txt", table + "\n")


if __name__ == "__main__":
    typer.run(main)
