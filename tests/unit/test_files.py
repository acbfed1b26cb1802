"""Files are complete or missing: nothing half-written is accepted as a result."""

import contextlib
import csv
import errno
import math
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from coopnet import files
from coopnet.files.errors import CoopNetError


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def refusal(action: Callable[[], object]) -> str:
    """The error message, which must be one line."""
    with pytest.raises(CoopNetError) as caught:
        action()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, {"a": 1}),
    "rows": lambda path: files.write_rows(path, [{"a": 1}]),
    "tensors": lambda path: files.write_tensors(path, {"a": np.zeros(3)}),
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@every_writer
def test_new_file_replaces_the_old(write: Callable[[Path], object], tmp_path: Path) -> None:
    """After a write the new file is complete and nothing else is left beside it; folders are created if necessary."""
    path = tmp_path / "deep" / "er" / "file"
    write(path)
    content = path.read_bytes()
    path.write_bytes(b"old and much, much longer" * 100)
    write(path)
    assert path.read_bytes() == content
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_interruption_leaves_the_old_file(exception: type[BaseException], tmp_path: Path) -> None:
    """Whatever interrupts a write, the old file is still there, and nothing else."""
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise exception

    with pytest.raises(exception):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_old_file_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    """During a write readers see the old file, and no pattern for visible files matches the unfinished one."""
    path = tmp_path / "file.csv"
    path.write_text("old")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent.parent == path.parent
        assert temporary.name.startswith(".")
    assert path.read_text() == "new"


WRITER = """
import os, pathlib, signal, sys
from coopnet import files
with files.replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    (temporary.parent / ".tmp1").write_text("a library's own")
    print(flush=True)
    sys.stdin.read()
"""
"""Writes half a file and then waits."""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    """The next writer of the same file removes unfinished files of dead processes only."""
    path = tmp_path / "file[1]"  # no pattern
    with contextlib.ExitStack() as stack:
        writers = []
        for name in (path, path, tmp_path / "another"):
            command = [sys.executable, "-c", WRITER, name]
            writer = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert writer.stdout is not None
            assert writer.stdout.readline()
            writers.append(writer)
        for dead in (writers[0], writers[2]):
            dead.kill()
            dead.wait()
        assert len(names(tmp_path)) == 3
        files.write_text(path, "new")
        left = names(tmp_path)
        assert [name.rpartition(".")[0] for name in left] == [".another", ".file[1]", ""]
        writers[1].communicate()
        assert writers[1].returncode == 0
    assert path.read_text() == "half"
    assert names(tmp_path) == [left[0], "file[1]"]


FOLDER_WRITER = """
import os, pathlib, signal, sys
from coopnet import files

with files.new_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Is killed while it fills a new folder."""


def test_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    """It replaces an empty folder only; an error leaves nothing, and the next writer removes what a killed one left."""
    out = tmp_path / "deep" / "out"
    subprocess.run([sys.executable, "-c", FOLDER_WRITER, out])
    assert len(names(out.parent)) == 1
    with contextlib.suppress(KeyboardInterrupt), files.new_folder(out) as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert names(out.parent) == []
    out.mkdir()
    with files.new_folder(out) as folder:
        (folder / "file").write_text("whole")
        assert names(out) == []
    assert (names(out.parent), names(out)) == (["out"], ["file"])
    for there in (out, out / "file"):
        assert "is not empty; choose another folder" in refusal(lambda there=there: files.new_folder(there).__enter__())
    assert "cannot write" in refusal(lambda: files.new_folder(out / "file" / "inside").__enter__())


def test_file_is_on_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure may lose the new file or the rename, but never the content behind the name."""
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("flushed"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append("renamed"), replace(path, target)))
    files.write_text(tmp_path / "file", "new")
    assert done == ["flushed", "renamed"]


def test_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """An output that DVC has linked into its cache is replaced by a file; the cache keeps its content."""
    cached = tmp_path / "cached"
    cached.write_text("cached")
    (tmp_path / "soft").symlink_to(cached)
    os.link(cached, tmp_path / "hard")
    for name in ("soft", "hard"):
        files.write_text(tmp_path / name, "new")
        assert not (tmp_path / name).is_symlink()
    assert cached.read_text() == "cached"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_permissions_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    """Results have the default permissions of the user, and the umask is unchanged."""
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "file", "new")
    finally:
        assert os.umask(before) == umask
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


# Errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@every_writer
def test_full_disk(
    write: Callable[[Path], object], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or quota gives one line with the file and the remedy; the old file is unchanged."""

    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    message = refusal(lambda: write(path))
    assert f"cannot write {path}: the disk is full; free some space and run the same command again" in message
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, if this user may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_really_full_disk(tiny_disk: Path, tmp_path: Path) -> None:
    """The same on a file system that is really full, for writes by Python, safetensors and copy."""
    large = np.zeros(1_000_000, np.uint8)
    (tmp_path / "large").write_bytes(large.tobytes())
    for write in (
        lambda path: files.write_text(path, "x" * 1_000_000),
        lambda path: files.write_tensors(path, {"a": large}),
        lambda path: files.copy(tmp_path / "large", path),
    ):
        message = refusal(lambda write=write: write(tiny_disk / "file"))
        assert f"cannot write {tiny_disk / 'file'}" in message
        assert "free some space" in message
        assert names(tiny_disk) == []


def test_error_of_safetensors_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library safetensors has its own error type for a disk that cannot be written."""

    def fail(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    message = refusal(lambda: files.write_tensors(tmp_path / "file", {"a": np.zeros(1)}))
    assert str(tmp_path / "file") in message
    assert "free some space" in message


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in place of a folder gives one line with the path that was to be written."""
    (tmp_path / "file").write_text("")
    message = refusal(lambda: files.write_text(tmp_path / "file" / "inside", "new"))
    assert str(tmp_path / "file" / "inside") in message


def test_folder_where_the_file_should_be(tmp_path: Path) -> None:
    """A folder in place of the file gives one line, and stays."""
    (tmp_path / "file" / "inside").mkdir(parents=True)
    assert str(tmp_path / "file") in refusal(lambda: files.write_text(tmp_path / "file", "new"))
    assert f"cannot remove {tmp_path / 'file'} (" in refusal(lambda: files.remove(tmp_path / "file"))
    files.remove(tmp_path / "missing")
    assert names(tmp_path) == ["file"]


# JSON


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_holds_no_infinity(value: float, tmp_path: Path) -> None:
    """JSON has neither NaN nor infinities; writing one fails and leaves the old file."""
    files.write_json(tmp_path / "file", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "file", {"a": [value]})
    assert files.read_json(tmp_path / "file") == {"a": 1}


def test_json_does_not_depend_on_order(tmp_path: Path) -> None:
    """The same content is the same bytes: sorted keys, one per line, a line break at the end."""
    files.write_json(tmp_path / "a", {"x": 1, "b": {"z": 0.1, "c": None}})
    files.write_json(tmp_path / "b", {"b": {"c": None, "z": 0.1}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text() == '{\n  "b": {\n    "c": null,\n    "z": 0.1\n  },\n  "x": 1\n}\n'


@settings(max_examples=50, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_json_floats_keep_their_bits(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    """Floats read back are equal to those written."""
    path = tmp_path_factory.getbasetemp() / "float.json"
    files.write_json(path, value)
    assert files.read_json(path).hex() == value.hex()


def test_missing_json(tmp_path: Path) -> None:
    """A missing file is named."""
    assert refusal(lambda: files.read_json(tmp_path / "file")) == f"{tmp_path / 'file'} is missing"


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"{'a': 1}", b'{"a":\n\n 1,}'])
def test_damaged_json(content: bytes, tmp_path: Path) -> None:
    """The error names a damaged file and the remedy."""
    (tmp_path / "file").write_bytes(content)
    message = refusal(lambda: files.read_json(tmp_path / "file"))
    assert f"{tmp_path / 'file'} is damaged" in message
    assert "delete it and run again" in message


def test_folder_for_json(tmp_path: Path) -> None:
    """A folder in place of the file is named."""
    assert str(tmp_path) in refusal(lambda: files.read_json(tmp_path))


# CSV


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False), min_size=1))
def test_csv_floats_keep_their_bits(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    """Floats are written with all their digits."""
    path = tmp_path_factory.getbasetemp() / "floats.csv"
    files.write_rows(path, [{"row": i, "value": value} for i, value in enumerate(values)])
    with path.open(newline="") as handle:
        assert [float(row["value"]).hex() for row in csv.DictReader(handle)] == [value.hex() for value in values]


def test_csv_keeps_the_order_of_the_first_row(tmp_path: Path) -> None:
    """Columns have the order of the first row; NumPy's numbers are written like Python's; lines end in one byte."""
    files.write_rows(tmp_path / "a.csv", [{"b": np.float64(0.1), "a": np.int64(1)}, {"a": 2, "b": 'x,"y'}])
    assert (tmp_path / "a.csv").read_bytes() == b'b,a\n0.1,1\n"x,""y",2\n'


def test_csv_without_rows(tmp_path: Path) -> None:
    """An empty table (a run without epochs) is a file too."""
    files.write_rows(tmp_path / "a.csv", [])
    assert (tmp_path / "a.csv").read_text().strip() == ""


# Tensors


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.arange(10, dtype=np.uint8)[::2],
        np.array(3, dtype=np.int64),
        np.zeros((0, 4), dtype=np.float32),
        np.array([np.nan, np.inf, -0.0]),
    ],
    ids=["plain", "transposed", "strided", "scalar", "empty", "special"],
)
def test_tensors_come_back(array: np.ndarray, tmp_path: Path) -> None:
    """Values, type and shape are preserved for any memory layout."""
    files.write_tensors(tmp_path / "file", {"a": array})
    back = files.read_tensors(tmp_path / "file")["a"]
    np.testing.assert_array_equal(back, array, strict=True)


def test_tensors_do_not_depend_on_order(tmp_path: Path) -> None:
    """The same tensors are the same bytes."""
    a, b = np.zeros(3), np.ones((2, 2), np.uint8)
    files.write_tensors(tmp_path / "a", {"a": a, "b": b})
    files.write_tensors(tmp_path / "b", {"b": b, "a": a})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_damaged_tensors(size: int, tmp_path: Path) -> None:
    """The error names a truncated file and the remedy."""
    path = tmp_path / "file"
    files.write_tensors(path, {"a": np.zeros(100)})
    os.truncate(path, size % path.stat().st_size)
    message = refusal(lambda: files.read_tensors(path))
    assert f"{path} is damaged" in message
    assert "delete it and run again" in message


def test_missing_tensors(tmp_path: Path) -> None:
    """A missing file is named."""
    assert refusal(lambda: files.read_tensors(tmp_path / "file")) == f"{tmp_path / 'file'} is missing"


# Digests and copies


def test_digest_is_sha256(tmp_path: Path) -> None:
    """The digest is the one that `sha256sum` prints."""
    (tmp_path / "file").write_bytes(b"abc")
    assert files.sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert str(tmp_path / "missing") in refusal(lambda: files.sha256(tmp_path / "missing"))


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
def test_copy_is_a_copy(size: int, tmp_path: Path) -> None:
    """The copy has the same bytes and shares no inode with its source."""
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(os.urandom(size))
    files.copy(source, target)
    assert files.sha256(source) == files.sha256(target)
    assert source.stat().st_ino != target.stat().st_ino
    assert source.stat().st_nlink == target.stat().st_nlink == 1
    with target.open("ab") as handle:
        handle.write(b"more")
    assert source.stat().st_size == size


def test_copy_of_nothing_names_the_source(tmp_path: Path) -> None:
    """The error names the missing source, not the target, and nothing is left behind."""
    message = refusal(lambda: files.copy(tmp_path / "source", tmp_path / "target"))
    assert message == f"{tmp_path / 'source'} is missing"
    assert names(tmp_path) == []
