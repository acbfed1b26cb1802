"""Leases of the GPUs of one machine: fake devices, real processes."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from coopnet.files.errors import CoopNetError
from coopnet.runs import leases
from coopnet.runs.stop import Stop
from tiny_fixture import BIN, TINY, make_workspace

HOLD = """
import os, sys
from coopnet.runs import leases
print(os.environ.get(leases.VISIBLE) if leases.acquire("run", float(sys.argv[1])) else "none free", flush=True)
sys.stdin.read()
"""

LISTED = """GPU 0: Fake (UUID: GPU-{0}-a)
GPU 1: Fake (UUID: GPU-{0}-b)
  MIG 1g.18gb     Device  0: (UUID: MIG-{0}-c)
  MIG 1g.18gb     Device  1: (UUID: MIG-{0}-d)
"""


class Holders:
    """Processes that lease one device each, print it, and keep it until they are killed."""

    def __init__(self, **environment: str):
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, seconds: float = 0, **environment: str) -> subprocess.Popen[str]:
        """Start a process that waits this long for a device."""
        command = [sys.executable, "-c", HOLD, str(seconds)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen(command, env=self.environment | environment, **pipes))
        return self.started[-1]

    def seen(self, seconds: float = 0, **environment: str) -> str:
        """Start a process, and return the devices that it sees."""
        return said(self.start(seconds, **environment))


def said(process: "subprocess.Popen[str]") -> str:
    """The next output line of a process."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def name() -> str:
    """A name that no device on this machine has."""
    return uuid.uuid4().hex


@pytest.fixture
def holders(name: str, tmp_path: Path) -> Iterator[Holders]:
    """Three devices named by `CUDA_VISIBLE_DEVICES`, without any others."""
    made = Holders(CUDA_VISIBLE_DEVICES=f"{name}-0,{name}-1,{name}-2", PATH=str(tmp_path))
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.fixture
def nvidia_smi(name: str, tmp_path: Path) -> str:
    """A PATH with an `nvidia-smi` that lists a whole GPU and two parts of another."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{LISTED.format(name)}E\n")
    script.chmod(0o755)
    return str(script.parent)


def test_each_process_sees_one_device_of_its_own(holders: Holders, name: str) -> None:
    """As many processes as devices: each sees exactly one, no two the same; a further process finds none."""
    at_once = [holders.start() for _ in range(3)]
    assert {said(process) for process in at_once} == {f"{name}-0", f"{name}-1", f"{name}-2"}
    assert holders.seen() == "none free"


def test_lease_dies_with_its_process(holders: Holders, name: str) -> None:
    """A waiting process gets the device of a process that was killed with -9, and no other."""
    holding = {said(process): process for process in [holders.start() for _ in range(3)]}
    waiting = holders.start(seconds=60)
    time.sleep(1)
    assert waiting.poll() is None
    holding[f"{name}-1"].kill()
    assert said(waiting) == f"{name}-1"


def test_runs_may_share_a_device(holders: Holders, name: str) -> None:
    """COOPNET_RUNS_PER_GPU runs share a device, after every device has one."""
    shared = {"COOPNET_RUNS_PER_GPU": "2"}
    first = {holders.seen(**shared) for _ in range(3)}
    assert first == {f"{name}-0", f"{name}-1", f"{name}-2"}
    assert {holders.seen(**shared) for _ in range(3)} == first
    assert holders.seen(**shared) == "none free"


def test_index_and_uuid_are_one_device(holders: Holders, name: str, nvidia_smi: str) -> None:
    """By its index, its UUID, the beginning of its UUID, or without any name: a device is leased once."""
    asked = {"PATH": nvidia_smi}
    assert holders.seen(**asked, CUDA_VISIBLE_DEVICES="0") == "0"
    for other in (f"GPU-{name}-a", f"GPU-{name}", "0,-1,1"):
        assert holders.seen(**asked, CUDA_VISIBLE_DEVICES=other) == "none free"
    del holders.environment["CUDA_VISIBLE_DEVICES"]
    assert {holders.seen(**asked) for _ in range(3)} == {f"MIG-{name}-c", f"MIG-{name}-d", "none free"}


def test_jobs_of_slurm_do_not_share_out_each_others_devices(holders: Holders, name: str) -> None:
    """Two jobs may both number their own device 0; two runs in one job may not both have it."""
    one = {"CUDA_VISIBLE_DEVICES": f"{name}-0"}
    assert holders.seen(**one, SLURM_JOB_ID="7") == f"{name}-0"
    assert holders.seen(**one, SLURM_JOB_ID="8") == f"{name}-0"
    assert holders.seen(**one, SLURM_JOB_ID="7") == "none free"


@pytest.mark.parametrize("devices", ["", "-1", "NoDevFiles"])
def test_without_a_device_nothing_is_leased(monkeypatch: pytest.MonkeyPatch, devices: str) -> None:
    """PyTorch then reports the missing device, as before."""
    monkeypatch.setenv(leases.VISIBLE, devices)
    assert leases.acquire("run", 0)
    assert os.environ[leases.VISIBLE] == devices


@pytest.mark.parametrize("number", ["0", "two", "-1", ""])
def test_number_of_runs_is_checked(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """One line names the variable and its value."""
    monkeypatch.setenv(leases.RUNS_PER_GPU, number)
    with pytest.raises(CoopNetError, match=f"COOPNET_RUNS_PER_GPU is '{number}'.*set it to 1 or more"):
        leases.acquire("run", 0)


def test_training_waits_for_a_device_until_its_time_limit(holders: Holders, name: str, prepared: Path) -> None:
    """A run with `device: cuda` logs that it waits, ends as resumable, and imports no torch."""
    for _ in range(3):
        holders.start()
    for process in holders.started:
        said(process)
    folder = make_workspace(Path(os.environ["COOPNET_STORE"]).parent / "workspace", prepared)
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"device": "cuda"}))
    code = "import sys; from coopnet.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "train", "tiny", "one3", "0", "--max-minutes", "0.01"]
    done = subprocess.run(command, cwd=folder, env=holders.environment, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert f"every GPU here ({name}-0, {name}-1, {name}-2) is leased to another run; waiting" in done.stderr
    assert done.stdout.strip() == "False"


STAND_IN = '''

def choose(kind: str) -> torch.device:
    """A CPU that passes for a GPU; says what CUDA would see, and waits until there are two such."""
    import atexit, os, pathlib, time

    def note(event: str) -> None:
        with open("devices.txt", "a") as file:
            file.write(f"{event} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")

    note("begin")
    atexit.register(note, "end")
    end = time.monotonic() + 120
    while pathlib.Path("devices.txt").read_text().count("begin") < 2 and time.monotonic() < end:
        time.sleep(0.1)
    return torch.device("cpu")
'''


@pytest.mark.slow
def test_snakemake_runs_as_many_jobs_as_there_are_devices(name: str, prepared: Path, tmp_path: Path) -> None:
    """`--resources gpu=2` and four jobs: two at a time, each with its own device.

    Snakemake, `coopnet train` and the study with `device: cuda` are real; only the tensors are on a CPU.
    """
    folder = make_workspace(tmp_path / "workspace", prepared)
    rows = ["baseline", "one1", "one3", "one5"]
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"device": "cuda", "only": rows}))
    subprocess.run(["cp", "-r", ROOT / "src", folder], check=True)
    with (folder / "src/coopnet/training/device.py").open("a") as source:
        source.write(STAND_IN)
    environment = {"PYTHONPATH": str(folder / "src"), "CUDA_VISIBLE_DEVICES": f"{name}-0,{name}-1"}
    command = [BIN / "snakemake", "--cores", "4", "--resources", "gpu=2", "--config", "study=tiny"]
    command += ["--until", "train_baseline_run", "train_one_run"]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    busy: set[str] = set()
    most = 0
    lines = (folder / "devices.txt").read_text().splitlines()
    for event, device in (line.split() for line in lines):
        if event == "begin":
            assert device not in busy, lines
            busy.add(device)
            most = max(most, len(busy))
        else:
            busy.remove(device)
    assert (most, len(lines)) == (2, 2 * len(rows)), lines
    logs = "".join(path.read_text() for path in (folder / "logs").rglob("*-seed0.log"))
    assert all(f"seed0: on GPU {name}-{i}" in logs for i in (0, 1))


def test_sigterm_said_twice_still_saves() -> None:
    """Slurm sends SIGTERM to every process, and `srun` forwards its own: the step is still finished."""
    stop = Stop(None)
    with stop.listening():
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
    assert (stop(), stop.exit_code) == ("stopped by SIGTERM", 128 + signal.SIGTERM)


def test_interrupt_asked_twice_goes_at_once() -> None:
    """A second Ctrl-C ends the run without waiting for the step."""
    stop = Stop(None)
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
