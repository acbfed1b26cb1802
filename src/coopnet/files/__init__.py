"""Reading and writing files: writes are atomic, and damaged files are refused."""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from coopnet.files.errors import CoopNetError, Damaged

if TYPE_CHECKING:  # importing NumPy takes a third of a second, and not every command reads tensors
    import numpy as np

SEAL = "seal"
"""The field that holds a record's own digest."""

FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, copy on write

LARGEST_JSON = 256 * 2**20
"""Bytes. Ten times the largest JSON file of a study of 10,000 runs (digests of all its files)."""

LARGEST_RECORD = 64 * 2**20
"""Bytes. A record of one network or dataset has about 5 kB, and 50 MB with the longest names of 65,536 classes."""

LARGEST_HEADER = 16 * 2**20
"""Bytes. A tensor takes about 100, so this suffices for 150,000 tensors; safetensors itself would accept 100 MB."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed over `path`.

    Temporary files left by a killed process are removed when the next one replaces `path`.

    Raises:
        CoopNetError: the disk is full or the folder cannot be written; `path` is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(path) as folder:
            temporary = folder / f".{path.name}"  # in a folder, because safetensors has temporary files of its own
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_umask())  # safetensors' 0600 would lock colleagues out of a shared store
            temporary.replace(path)
    except OSError as error:
        raise CoopNetError(f"cannot write {path}: {reason(error)}") from error
    except SafetensorError as error:
        raise CoopNetError(f"cannot write {path}: {reason(_system_error(error))}") from error


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed at the end.

    Its owner holds a lock on it. A folder that can be locked belonged to a process that died, and the next process
    removes it.
    """
    prefix = f".{path.name}."  # dots keep unfinished files out of every glob
    for left in path.parent.glob(f"{glob.escape(prefix)}*/"):
        _remove_if_left(left)
    folder, handle = _own_folder(path.parent, prefix)
    try:
        folder.chmod(0o777 & ~_umask())  # so that a colleague may remove it
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `out` on success; after an error nothing is left of it.

    What a killed process left is removed when the same folder is made again.

    Raises:
        CoopNetError: `out` exists and is not an empty folder, or it cannot be written.
    """
    check_new(out)
    place = out.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(place) as scratch:
            made = scratch / place.name
            made.mkdir()
            yield made
            made.replace(place)
    except OSError as error:
        raise CoopNetError(f"cannot write {out}: {reason(error)}") from error


def check_new(out: Path) -> None:
    """Refuse a folder that has content.

    Raises:
        CoopNetError: `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CoopNetError(f"{out} exists and is not empty; choose another folder, or remove it")


def _own_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Create a folder and lock it; return it and the descriptor that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # without locks in the file system, nobody removes another's folder
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.is_dir():  # otherwise another process removed it before it was locked
                return folder, handle
            os.close(handle)


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):  # its owner lives, or it is gone, or it belongs to another user
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def reason(error: OSError) -> str:
    """Why the system call failed, in words for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    return error.strerror or " ".join(str(error).split())


def _system_error(error: SafetensorError) -> OSError:
    """The system's error in one of safetensors' own type, which has the error number in its text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def remove(path: Path) -> None:
    """Remove a file, if it exists.

    Raises:
        CoopNetError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CoopNetError(f"cannot remove {path} ({reason(error)}); check the permissions of its folder") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write sorted, indented JSON, atomically; NaN and infinities are refused (`ValueError`)."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Read JSON.

    Args:
        path: of the file.
        largest: bytes that the file may have at most.

    Raises:
        CoopNetError: the file is missing, unreadable, too large or not JSON.
    """
    try:
        size = _size(path)
        if size > largest:
            raise Damaged(f"{path} has {size} bytes, more than the {largest} that any such file needs")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path} is missing", "") from None
    except OSError as error:
        raise CoopNetError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged (not valid JSON: {error})") from error


def _size(path: Path) -> int:
    """Bytes of a regular file; reading anything else (a pipe, a device) might never end.

    Raises:
        OSError: there is no such file, or it is not a regular one.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return status.st_size


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same content with the SHA-256 of its text as `seal`, for records whose digest is stored nowhere else."""
    return {**content, SEAL: _seal(content)}


def read_sealed(path: Path, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Read a record that was written `sealed`, and return it without its seal; a record without a seal is accepted.

    Raises:
        CoopNetError: the file is missing, unreadable, not a JSON mapping, or does not match its seal.
    """
    content = read_json(path, largest)
    seal = content.pop(SEAL, None) if isinstance(content, dict) else None
    if not isinstance(content, dict) or seal not in (None, _seal(content)):
        raise Damaged(f"{path} is damaged (it does not match its seal)")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_field(path: Path, field: str) -> Any:
    """A field of a JSON mapping; None if the file is missing or damaged, for callers that need no distinction."""
    try:
        content = read_json(path)
    except CoopNetError:
        return None
    return content.get(field) if isinstance(content, dict) else None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV, atomically. Missing values are empty cells, and floats keep all their digits.

    Args:
        path: of the table.
        rows: the values of each row, by column.
        columns: the header; by default all keys, in order of first appearance.
    """
    if columns is None:
        rows = list(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row.get(column) for column in columns] for row in rows)


def write_tensors(path: Path, tensors: "Mapping[str, np.ndarray]") -> None:
    """Write NumPy arrays as safetensors, atomically."""
    import numpy as np
    import safetensors.numpy

    with replacing(path) as temporary:
        contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        safetensors.numpy.save_file(contiguous, temporary)


def read_tensors(path: Path) -> "dict[str, np.ndarray]":
    """Read safetensors as NumPy arrays.

    Raises:
        CoopNetError: the file is missing, unreadable, truncated, not safetensors, or has types that NumPy lacks.
    """
    import safetensors.numpy

    with reading_tensors(path):
        return safetensors.numpy.load_file(path)


class Pieces(NamedTuple):
    """A tensor that is written some rows at a time: its safetensors type (`U8` or `U16`), its shape and its rows."""

    kind: str
    shape: "list[int]"
    rows: "Iterable[np.ndarray]"


WIDTHS = {"U8": 1, "U16": 2}
"""Bytes of a number, by safetensors type."""


def write_pieces(path: Path, tensors: Mapping[str, Pieces]) -> None:
    """Write tensors larger than the memory as safetensors, atomically; the bytes equal those of the library."""
    names = sorted(tensors, key=lambda name: (-WIDTHS[tensors[name].kind], name))  # as the library orders them
    header, end = {}, 0
    for name in names:
        begin, end = end, end + math.prod(tensors[name].shape) * WIDTHS[tensors[name].kind]
        header[name] = {"dtype": tensors[name].kind, "shape": tensors[name].shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for rows in tensors[name].rows:
                file.write(rows.tobytes())


def map_tensors(path: Path) -> "dict[str, np.ndarray]":
    """Map the tensors of a safetensors file (`U8` or `U16`) into memory: pages are read when used and may be evicted.

    Raises:
        CoopNetError: the file is missing, unreadable, truncated, not safetensors, or has other types.
    """
    import numpy as np
    from safetensors import safe_open

    with reading_tensors(path):
        with safe_open(path, framework="numpy") as checked:  # this checks the header against the file
            names = list(checked.keys())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        mapped = {}
        for name in names:
            begin, shape = 8 + length + header[name]["data_offsets"][0], tuple(header[name]["shape"])
            kind = f"<u{WIDTHS[header[name]['dtype']]}"
            mapped[name] = np.memmap(path, kind, "r", begin, shape) if math.prod(shape) else np.zeros(shape, kind)
        return mapped


def read_ahead(array: "np.ndarray", rows: "np.ndarray") -> None:
    """Ask the system to read some rows of a mapped array at once; an array in memory needs nothing.

    Without this, the system reads a row when it is used, and 128 kB around it. That gave 180 images/s of 12 kB each at
    random places of a file twice as large as the memory; read-ahead gives 25,000.
    """
    import numpy as np

    mapped = getattr(array, "_mmap", None)
    if mapped is None or not hasattr(mapped, "madvise"):  # some systems have no madvise
        return
    first = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    mapped.madvise(mmap.MADV_RANDOM)
    for row in np.sort(rows).tolist():
        begin = first + row * array.strides[0]
        page = begin - begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, begin + array.strides[0] - page)


@contextlib.contextmanager
def reading_tensors(path: Path) -> Iterator[None]:
    """Name the file in errors of the safetensors reader.

    Raises:
        CoopNetError: it is missing, unreadable, truncated, not safetensors, or has types that the reader lacks.
    """
    check_header(path)  # it also opens the file, because safetensors reports system errors without their number
    try:
        yield
    except OSError as error:
        raise CoopNetError(f"cannot read {path}: {reason(error)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error


def check_header(path: Path) -> None:
    """Refuse a file that cannot be safetensors, before a reader allocates memory for it.

    Raises:
        CoopNetError: the file is missing or unreadable, or its header is longer than the file or than the limit.
    """
    try:
        size = _size(path)
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
    except FileNotFoundError:
        raise Damaged(f"{path} is missing", "") from None
    except OSError as error:
        raise CoopNetError(f"cannot read {path}: {reason(error)}") from error
    if length > min(LARGEST_HEADER, size - 8):
        raise Damaged(f"{path} is damaged (its header has {length} bytes)")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    try:
        _size(path)
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CoopNetError(f"cannot read {path}: {reason(error)}") from error


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically, sharing blocks where the file system can (never a hard link).

    Raises:
        CoopNetError: `source` is missing, or `target` cannot be written.
    """
    if not source.is_file():
        raise CoopNetError(f"{source} is missing")
    with replacing(target) as temporary:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            try:
                fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
                return
            except OSError:
                pass  # not a copy-on-write file system
        shutil.copyfile(source, temporary)
