"""After any number of interruptions at random moments, the same command gives the same bits."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tiny_fixture import BIN, bits, call, edit, make_workspace


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_random_interruptions_leave_no_trace(number: signal.Signals, prepared: Path, tmp_path: Path) -> None:
    """Twenty seeded random requests to a run and its grown child, some of them during training."""
    chance = random.Random(number)
    folders = [make_workspace(tmp_path / name / "workspace", prepared) for name in ("calm", "storm")]
    for folder in folders:
        edit(folder, lambda study: study.update(time_scale=0.1))
    for experiment in ("one3", "one3_to_5_masked"):
        arguments = ("coopnet", "train", "tiny", experiment, "0")
        if experiment == "one3_to_5_masked":
            for folder, store in zip(folders, (str(tmp_path / "calm-store"), None), strict=True):
                built = call(folder, "coopnet", "transfer", "tiny", experiment, "0", store=store)
                assert built.returncode == 0, built.stderr
        began = time.monotonic()
        calm = call(folders[0], *arguments, store=str(tmp_path / "calm-store"))
        seconds = time.monotonic() - began
        assert calm.returncode == 0, calm.stderr
        for _ in range(10):
            with (tmp_path / "storm.log").open("a") as log:
                process = subprocess.Popen([BIN / "coopnet", *arguments[1:]], cwd=folders[1], stderr=log)
                time.sleep(chance.uniform(0.05, 0.9) * seconds)
                process.send_signal(number)
                process.wait()
        storm = call(folders[1], *arguments)
        assert storm.returncode == 0, storm.stderr
    assert "continuing at epoch" in (tmp_path / "storm.log").read_text()
    assert bits(folders[0]) == bits(folders[1])
