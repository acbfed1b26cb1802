"""The dates that tell a workflow engine which runs it has to ask for."""

import os
from pathlib import Path

from coopnet import files, stamps


def test_stamp_is_older_than_everything_while_the_record_is_the_planned_one(tmp_path: Path) -> None:
    """A run made with the planned key is up to date, whoever made it and however often it is asked."""
    stamp, record = tmp_path / "stamp", tmp_path / "run.json"
    files.write_json(record, {"key": "a"})
    for _ in range(2):
        stamps.mark_run(stamp, "a", record)
        assert stamp.stat().st_mtime == stamps.LONG_AGO


def test_stamp_is_newer_than_what_was_put_in_place_of_a_run(tmp_path: Path) -> None:
    """Files of another run that arrive after the stamp was made, as `git checkout` leaves them, are not up to date."""
    stamp, record = tmp_path / "stamp", tmp_path / "run.json"
    stamps.mark_run(stamp, "a", record)  # nothing there yet
    files.write_json(record, {"key": "other"})
    later = stamp.stat().st_mtime - 1
    os.utime(stamp, (later - 100, later - 100))
    os.utime(record, (later, later))
    stamps.mark_run(stamp, "a", record)
    assert stamp.stat().st_mtime > record.stat().st_mtime


def test_stamp_follows_the_key(tmp_path: Path) -> None:
    """Another key makes the stamp new, and the same run restored makes it old again."""
    stamp, record = tmp_path / "stamp", tmp_path / "run.json"
    files.write_json(record, {"key": "a"})
    stamps.mark_run(stamp, "a", record)
    stamps.mark_run(stamp, "b", record)
    assert stamp.stat().st_mtime > stamps.LONG_AGO
    stamps.mark_run(stamp, "a", record)
    assert stamp.stat().st_mtime == stamps.LONG_AGO
    assert stamp.read_text() == "a"
