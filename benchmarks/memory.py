"""Peak memory of a loop, in a separate process: `python -m benchmarks.memory` reads its task as JSON from stdin."""

import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.loops import LOOPS, switch
from benchmarks.watch import Enough, Stopwatch
from benchmarks.workload import EPOCH, synthetic
from coopnet.files.errors import CoopNetError
from coopnet.study.settings import Experiment

STEPS = 3
"""After this many steps no further step needs more memory."""


def on_cpu(loop: str, row: Experiment, threads: int, images: int = EPOCH["train"]) -> int:
    """Peak bytes of a new process during training: libraries, images and everything else.

    The reference's workers are separate processes and are not counted.
    """
    asked = {"loop": loop, "row": row.model_dump(mode="json"), "threads": threads, "images": images}
    command = [sys.executable, "-m", "benchmarks.memory"]
    folder = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=folder, input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode:
        raise CoopNetError(f"the peak memory of {loop} could not be measured: {done.stderr.strip()[-500:]}")
    return int(done.stdout)


def main() -> None:
    """Run a few steps and print the peak memory."""
    asked = json.load(sys.stdin)
    row = Experiment.model_validate(asked["row"])
    switch(asked["loop"], asked["threads"])
    cpu = torch.device("cpu")
    with suppress(Enough):
        LOOPS[asked["loop"]](row, synthetic(row, {"train": asked["images"]}), cpu, Stopwatch(cpu, limit=STEPS))
    print(peak())


def peak() -> int:
    """Peak bytes of this process.

    On Linux `getrusage` would report the peak of the process that started this one, if that was higher.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts it in bytes


if __name__ == "__main__":
    main()
