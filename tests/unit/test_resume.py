"""The saved state of an interrupted run: written by a thread, not after every short epoch, and in time."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from coopnet.files.errors import CoopNetError
from coopnet.runs import checkpoint, resume
from coopnet.runs.resume import ResumeFolder


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the folder uses."""
    clock = Clock()
    monkeypatch.setattr(resume, "time", clock)
    return clock


def on_disk(folder: ResumeFolder) -> int | None:
    """The epoch from which a run would continue after a kill; None: from its beginning."""
    found = ResumeFolder(folder.run, folder.identity).load()
    return None if found is None else int(found[1]["epoch"])


def save(folder: ResumeFolder, epoch: int) -> None:
    """End an epoch."""
    folder.save({"weight": torch.full((3,), float(epoch))}, {"epoch": epoch, "history": [{"epoch": epoch}]})


def settled(folder: ResumeFolder) -> None:
    """Wait for the writing thread, without writing the waiting state."""
    if folder.thread is not None:
        folder.thread.join()


def test_short_epochs_are_not_written_one_by_one(tmp_path: Path, clock: Clock) -> None:
    """Every third epoch of 10 s is written; later states are on disk after a flush."""
    folder = ResumeFolder(tmp_path, {"key": "a"})
    seen = []
    for epoch in range(1, 8):
        clock.now += 10
        save(folder, epoch)
        settled(folder)
        seen.append(on_disk(folder))
    assert seen == [None, None, 3, 3, 3, 6, 6]
    folder.flush()
    assert on_disk(folder) == 7


def test_without_seconds_every_epoch_is_on_disk(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With COOPNET_SAVE_SECONDS=0 a finished epoch is on disk when the next begins."""
    monkeypatch.setenv(resume.EVERY, "0")
    folder = ResumeFolder(tmp_path, {"key": "a"})
    for epoch in (1, 2):
        save(folder, epoch)
        assert on_disk(folder) == epoch


def test_training_goes_on_while_a_state_is_written(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs end during a slow write; they wait without changing it, and the newest is written at the end."""
    go, write = threading.Event(), checkpoint.write_tensors

    def slowly(path: Path, tensors: Any) -> None:
        assert go.wait(30)
        write(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", slowly)
    folder, history = ResumeFolder(tmp_path, {"key": "a"}), list[dict[str, int]]()
    for epoch in (1, 2, 3):
        clock.now += 40
        history.append({"epoch": epoch})
        folder.save({"weight": torch.full((3,), float(epoch))}, {"epoch": epoch, "history": history})
    go.set()
    settled(folder)
    found = ResumeFolder(tmp_path, {"key": "a"}).load()
    assert found is not None
    assert found[0]["weight"].tolist() == [1.0] * 3
    assert found[1] == {"epoch": 1, "history": [{"epoch": 1}]}
    folder.flush()
    assert on_disk(folder) == 3


def test_state_that_could_not_be_written_ends_the_run(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the thread is raised once, at the next epoch; the earlier state is still on disk."""
    folder = ResumeFolder(tmp_path, {"key": "a"})
    save(folder, 1)
    folder.flush()

    def full(*asked: Any) -> None:
        raise CoopNetError("cannot write: no space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    clock.now += 40
    save(folder, 2)
    settled(folder)
    with pytest.raises(CoopNetError, match="no space left"):
        save(folder, 3)
    folder.flush()
    assert on_disk(folder) == 1


@pytest.mark.parametrize("text", ["often", "-1", "inf", "nan"])
def test_wrong_seconds_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, its value and the valid values."""
    monkeypatch.setenv(resume.EVERY, text)
    with pytest.raises(CoopNetError, match=f"COOPNET_SAVE_SECONDS is '{text}'; set it to a number of seconds"):
        ResumeFolder(tmp_path, {})
