"""Hostile files from elsewhere: nothing in them is run, and none uses more than its limits.

Each file is given to the command line in a separate process. The process must end with exit code 1 and one line that
names the file and the remedy. Its memory is watched, and it has limits far above those of the product, so that a
defect would fail a test and not crash the machine.
"""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import logging
import mmap
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import torchvision
import yaml

import archive_fixture
from coopnet import cli, files
from coopnet.data import canonical, official, shards, sources
from coopnet.data.arrays import Arrays
from coopnet.data.datasets import DATASETS, Dataset
from coopnet.files import confined
from coopnet.files.errors import CoopNetError
from coopnet.networks import lan2018
from coopnet.networks.network import Architecture, build
from coopnet.runs import checkpoint
from test_lan2018 import Bomb, Published, trained
from test_lan2018 import checkpoint as published_checkpoint
from test_prepare import encode, rows_of, write_shard

MIB, GIB = 2**20, 2**30
ROOT = Path(__file__).parents[2]
NET = Architecture("cifar_resnet", 8, "basic", 4, 2, "learned", 10)

AIR = 12 * GIB
"""Address space of a command beyond that of PyTorch: enough for the threads' arenas, too little to do harm."""

PEAK = 3 * GIB
"""Memory limit of a command and its children, including PyTorch (0.6 GiB) and a decoded split (1.9 GiB)."""


class Ended(NamedTuple):
    """The end of a command: its exit code, its output, and the peak memory of it and its children, in bytes."""

    code: int | None
    said: str
    memory: int


def run(*arguments: str | Path, folder: Path, seconds: float = 60) -> Ended:
    """Run `coopnet` with these arguments in a separate process, forked, because importing PyTorch takes seconds."""
    context = multiprocessing.get_context("fork")
    log = folder / "said.txt"
    child = context.Process(target=_command, args=(["coopnet", *map(str, arguments)], folder, log))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"not within {seconds} s: {log.read_text()}")
    said, _, memory = log.read_text().rpartition("\n#")
    return Ended(child.exitcode, said, int(memory or 0))


def _command(arguments: list[str], folder: Path, log: Path) -> None:
    """The main function of the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + AIR
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    os.chdir(folder)
    sys.argv = arguments
    logging.root.handlers.clear()  # pytest's own
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.stdout = sys.stderr = out
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        out.write(f"\n#{peak * 1024}")
        out.flush()
    os._exit(code or 0)


def assert_refused(ended: Ended, path: Path | str, *words: str) -> None:
    """Exit code 1 and one line that names a file and a remedy, in little memory."""
    assert ended.code == 1, ended.said
    (line,) = ended.said.strip().splitlines()
    assert line.startswith("coopnet: error: "), line
    assert line.isprintable()
    assert len(line) < 2_100
    assert str(path) in line
    assert any(
        word in line
        for word in ("again", "give", "must", "save", "delete", "use", "put", "run", "make", "remove", "set", "Give")
    ), line
    for word in words:
        assert word in line, line
    assert ended.memory < PEAK


# --- published checkpoints ------------------------------------------------------------------------------


def zipped(members: Mapping[str, tuple[int, bytes, int]]) -> bytes:
    """A zip archive whose members differ from their headers: method (0 stored, 8 deflated), bytes, declared size."""
    body, directory = b"", b""
    for name, (method, content, size) in members.items():
        fixed = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, 0, len(content), size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + fixed + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += name.encode()
        body += b"PK\3\4" + fixed + name.encode() + content
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def zip_bomb(path: Path) -> None:
    """A checkpoint of 2 MB whose pickle decompresses to 2 GiB: one MiB of zeros, compressed once and repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)  # ends at a byte, so that it can be repeated
    last = b"\x03\x00"  # an empty block
    path.write_bytes(zipped({"net/data.pkl": (8, block * 2048 + last, 2 * GIB - 1), "net/version": (0, b"3\n", 2)}))


def modern(pickled: bytes, **more: bytes) -> bytes:
    """A checkpoint of today's format around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **more}.items():
            archive.writestr(f"net/{name}", content)
    return buffer.getvalue()


def call(function: str, *arguments: bytes) -> bytes:
    """Pickled: a call of a function, by module and name, with arguments that are already pickled."""
    return b"c" + function.replace(":", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def whole(number: int) -> bytes:
    """A pickled integer."""
    return b"\x8a\x08" + number.to_bytes(8, "little", signed=True)


def in_state_dict(value: bytes, key: bytes = b"X\1\0\0\0a") -> bytes:
    """The pickle of a checkpoint whose `state_dict` has one entry."""
    return b"\x80\2}X\x0a\0\0\0state_dict}" + key + value + b"ss."


def storage(numel: int) -> bytes:
    """Pickled: the storage `0` with this many float32 numbers."""
    return b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + whole(numel) + b"tQ"


def tensor(numel: int, *shape: int) -> bytes:
    """Pickled: a dense tensor of a shape, in a storage with this many numbers."""
    sizes, strides = b"(" + b"".join(map(whole, shape)) + b"t", b"(" + whole(1) * len(shape) + b"t"
    arguments = storage(numel), whole(0), sizes, strides, b"\x89", call("collections:OrderedDict")
    return call("torch._utils:_rebuild_tensor_v2", *arguments)


def nested_key(levels: int = 64) -> bytes:
    """A pickled tuple of a tuple twice, of a tuple twice, and so on: its hash takes 2 ** levels steps."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


@functools.cache
def _published() -> dict[str, Any]:
    torch.manual_seed(0)
    model = Published(2)
    return published_checkpoint(model, trained(model))


def content() -> dict[str, Any]:
    """A checkpoint of the published code, to be changed."""
    saved = _published()
    return saved | {"state_dict": dict(saved["state_dict"])}


def saved(change: Callable[[dict[str, Any]], Any], *, new: bool = True) -> Callable[[Path], None]:
    """A checkpoint of the published code, changed before it is saved."""

    def write(path: Path) -> None:
        changed = content()
        change(changed)
        torch.save(changed, path, _use_new_zipfile_serialization=new)

    return write


def _widened(content: dict[str, Any]) -> None:
    """Ten million classes in four bytes: a classifier whose rows are one number."""
    for branch in (1, 2):
        content["state_dict"][f"module.classfier3_{branch}.weight"] = torch.zeros(1).expand(10_000_000, 64)
        content["state_dict"][f"module.classfier3_{branch}.bias"] = torch.zeros(1).expand(10_000_000)


def _branched(content: dict[str, Any]) -> None:
    """3,000 branches and 3,000 blocks: 6,000 keys that describe nine million blocks."""
    state, one = content["state_dict"], torch.zeros(1)
    state |= {f"module.layer3_{i}.0.conv1.weight": one for i in range(3_000)}
    state |= {f"module.layer1.{i}.conv1.weight": one for i in range(3_000)}


def _spoilt(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        spoilt = content["state_dict"][name].clone()
        spoilt.view(-1)[0] = value
        content["state_dict"][name] = spoilt

    return change


def _spoilt_momentum(content: dict[str, Any]) -> None:
    state = dict(content["optimizer"]["state"])
    state[3] = {"momentum_buffer": torch.full_like(state[3]["momentum_buffer"], float("nan"))}
    content["optimizer"] = content["optimizer"] | {"state": state}


def old_tar(path: Path) -> None:
    """The oldest format, a tar file, with a member whose path is outside the folder."""
    with tarfile.open(path, "w") as packed:
        for name in ("storages", "tensors", "pickle", "../escaped"):
            member = tarfile.TarInfo(name)
            content = pickle.dumps(Bomb(path.parent / "escaped"), 2)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))


def wanderer(path: Path) -> None:
    """A zip archive with members whose paths are outside the folder, and code in the pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/../../escaped", b"x")
        archive.writestr(str(path.parent / "escaped"), b"x")
        archive.writestr("net/data.pkl", pickle.dumps(Bomb(path.parent / "escaped"), 2))
        archive.writestr("net/version", b"3\n")


def sparse(size: int, start: bytes = b"") -> Callable[[Path], None]:
    """A sparse file of a given size."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return write


def raw(content: bytes) -> Callable[[Path], None]:
    """A file of these bytes."""
    return lambda path: (path.write_bytes(content), None)[1]


COSTLY = ("needs more than", "MiB to be read")
HOSTILE: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "code, new format": (
        lambda p: saved(lambda c: c.update(acc=Bomb(p.parent / "escaped")))(p),
        ("holds posix.mkdir",),
    ),
    "code, old format": (
        lambda p: saved(lambda c: c.update(acc=Bomb(p.parent / "escaped")), new=False)(p),
        ("holds posix.mkdir",),
    ),
    "code, bare pickle": (lambda p: p.write_bytes(pickle.dumps(Bomb(p.parent / "escaped"), 2)), ()),
    "zip bomb": (zip_bomb, COSTLY),
    "paths that lead out": (wanderer, ()),
    "oldest format": (old_tar, ("not a PyTorch checkpoint",)),
    "deep recursion": (raw(modern(b"\x80\2" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")), ("has no 'state_dict'",)),
    "bytearray": (raw(modern(in_state_dict(call("__builtin__:bytearray", whole(3 * GIB))))), COSTLY),
    "declared storage": (raw(modern(in_state_dict(tensor(2**40, 1)), **{"data/0": b"\0" * 4})), ()),
    "declared storage, old format": (
        raw(
            b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
            + in_state_dict(tensor(3 * GIB, 1)).replace(b"cpu" + whole(3 * GIB), b"cpu" + whole(3 * GIB) + b"N")
        ),
        COSTLY,
    ),
    "tensor beyond its storage": (raw(modern(in_state_dict(tensor(1, 3 * GIB)), **{"data/0": b"\0" * 4})), ()),
    "overflowing shape": (raw(modern(in_state_dict(tensor(1, 2**62, 8)), **{"data/0": b"\0" * 4})), ()),
    "expanded tensors": (saved(_widened), COSTLY),
    "many branches of many blocks": (saved(_branched), ("are too few for",)),
    "3 GiB": (sparse(3 * GIB, b"PK\3\4"), ("has 3221225472 bytes",)),
    "NaN": (saved(_spoilt("module.conv1.weight", float("nan"))), ("1 with NaN or infinity (module.conv1.weight)",)),
    "infinity": (saved(_spoilt("module.bn1.running_var", float("inf"))), ("infinity (module.bn1.running_var)",)),
    "NaN in the momentum": (saved(_spoilt_momentum), ("the momentum of", "without 'optimizer'")),
    "terminal codes": (
        saved(lambda c: c["state_dict"].update({"module.a\n\x1b[2Jb": torch.zeros(1)})),
        (r"a\n\x1b[2Jb",),
    ),
    "endless key": (
        saved(lambda c: c["state_dict"].update({"module." + "a" * 10**6: torch.zeros(1)})),
        ("unexpected",),
    ),
    "fifo": (os.mkfifo, ("is not a file",)),
    "link to itself": (lambda path: path.symlink_to(path), ("is not a file",)),
    "device": (lambda path: path.symlink_to("/dev/zero"), ("is not a file",)),
}


def kinds(all_of: Mapping[str, Any], quick: int) -> list[Any]:
    """Parameters: every `quick`-th kind is always tested, the others only by `make test-slow`."""
    return [kind if i % quick == 0 else pytest.param(kind, marks=pytest.mark.slow) for i, kind in enumerate(all_of)]


@pytest.mark.parametrize("kind", kinds(HOSTILE, 3))
def test_hostile_published_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    """`coopnet import` refuses it in one line, runs none of it, writes nothing, and needs little memory."""
    write, words = HOSTILE[kind]
    folder = tmp_path / "here"
    folder.mkdir()
    path = folder / "net.pth.tar"
    write(path)
    ended = run("import", path, "--out", folder / "out", folder=folder)
    assert_refused(ended, path.name, *words)
    assert ended.memory < 2 * GIB
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["here", "net.pth.tar", "said.txt"]


def test_endless_work_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a key whose hash would take centuries stops after the limit of processor time."""
    monkeypatch.setattr(lan2018, "SECONDS", 1)
    path = tmp_path / "net.pth.tar"
    path.write_bytes(modern(in_state_dict(b"N", key=nested_key())))
    assert_refused(run("import", path, "--out", tmp_path / "out", folder=tmp_path), path, "takes more than 1 s")


@pytest.mark.slow
def test_flipped_bits_of_a_published_checkpoint(tmp_path: Path) -> None:
    """With any flipped bit the file is imported or refused like any other file, and never crashes the command."""
    path, choice = tmp_path / "net.pth.tar", random.Random(0)
    saved(lambda c: c.pop("optimizer"))(path)
    whole = path.read_bytes()
    said = []
    for _ in range(40):
        place = choice.choice([choice.randrange(len(whole)), choice.randrange(4096), -choice.randrange(1, 4096)])
        flipped = bytearray(whole)
        flipped[place] ^= 1 << choice.randrange(8)
        path.write_bytes(flipped)
        try:
            lan2018.read(path)
        except CoopNetError as error:
            said.append(str(error))
    assert len(said) > 5
    assert all(path.name in line and line.isprintable() for line in said)


# --- checkpoints of our own form -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose only run starts from an imported checkpoint."""
    folder = tmp_path_factory.mktemp("project")
    canonical.prepare(DATASETS["digits"], "digits", None, folder / "data" / "prepared" / "digits")
    net = {
        "about": "of unknown origin",
        "seeds": [0],
        "data": {"normalization": "lan2018"},
        "model": {"branches": 2},
        "start": {"kind": "imported", "path": "imported"},
        "training": {"epochs": 0},
    }
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    parameters["experiments"]["net"] = net
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    tiny = {
        "title": "Tiny",
        "device": "cpu",
        "threads": 1,
        "only": ["net"],
        "every_experiment": {
            "data": {"dataset": "digits", "training_subset": 50, "validation": 0},
            "model": {"depth": 8, "width": 4},
            "training": {"precision": "fp32"},
        },
    }
    (folder / "studies").mkdir()
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    return folder


@pytest.fixture
def imported(project: Path) -> Path:
    """The intact folder of that checkpoint."""
    folder = project / "imported"
    for made in (folder, project / "results", project / "checkpoints"):
        shutil.rmtree(made, ignore_errors=True)
    network = build(NET, seed=0)
    optimizer_state = {"momentum_buffer": {name: torch.ones_like(p) for name, p in network.named_parameters()}}
    record = {
        "architecture": NET.to_dict(),
        "preprocessing": lan2018.LAN2018,
        "files": checkpoint.write_network(folder, network, optimizer_state),
    }
    files.write_json(folder / "model.json", record)
    return folder


def with_digests(folder: Path) -> None:
    """Put the current digests of the files into the record."""
    record = json.loads((folder / "model.json").read_text())
    record["files"] = {name: files.sha256(folder / name) for name in record["files"]}
    (folder / "model.json").write_text(json.dumps(record))


def test_the_checkpoint_itself_is_taken(project: Path, imported: Path) -> None:
    """The intact checkpoint is accepted, so the refusals below are due to the changes."""
    ended = run("train", "tiny", "net", "0", folder=project)
    assert ended.code == 0, ended.said


def header(text: str | bytes, data: bytes = b"") -> Callable[[Path], Any]:
    """Safetensors with this header and data."""
    content = text.encode() if isinstance(text, str) else text
    return raw(len(content).to_bytes(8, "little") + content + data)


def entry(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0,4]") -> str:
    """A tensor in a header."""
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """The tensors of the file, changed."""

    def write(path: Path) -> None:
        content = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
        change(content)
        safetensors.torch.save_file(content, path)

    return write


def _rewrite(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return tensors(lambda content: content.update({name: change(content[name])}))


STEM, SLOT = "trunk.stem.0.weight", "momentum_buffer/trunk.stem.0.weight"
WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "header of 2 GB": sparse(2 * GIB + 64, (2 * GIB).to_bytes(8, "little") + b'{"'),
    "header of 2 ** 63": raw((2**63).to_bytes(8, "little") + b"{}"),
    "header of 2 ** 64 - 1": raw(b"\xff" * 8 + b"{}"),
    "header of 20 MB": lambda path: header('{"__metadata__":{"a":"' + "x" * 20_000_000 + '"}}')(path),
    "header beyond the end": raw((64).to_bytes(8, "little") + b"{}"),
    "empty": raw(b""),
    "overlapping offsets": header(f'{{"a":{entry()},"b":{entry(offsets="[2,6]")}}}', bytes(6)),
    "offsets beyond the end": header(
        f'{{"a":{entry(shape="[1000000000000]", offsets="[0,4000000000000]")}}}', bytes(4)
    ),
    "offsets backwards": header(f'{{"a":{entry(offsets="[4,0]")}}}', bytes(4)),
    "overflowing shape": header(f'{{"a":{entry(shape="[4294967296,4294967296,4]", offsets="[0,0]")}}}'),
    "negative shape": header(f'{{"a":{entry(shape="[-1]")}}}', bytes(4)),
    "key twice": header(f'{{"a":{entry()},"a":{entry()}}}', bytes(4)),
    "deep nesting": lambda path: header('{"a":' + "[" * 10**6 + "]" * 10**6 + "}")(path),
    "not UTF-8": header(b'{"\xff\xfe":1}'),
    "unknown type": header(f'{{"a":{entry(dtype="PICKLE")}}}', bytes(4)),
    "half precision": _rewrite(STEM, torch.Tensor.bfloat16),
    "8 bits": _rewrite(STEM, lambda t: t.to(torch.float8_e4m3fn)),
    "double precision": _rewrite(STEM, torch.Tensor.double),
    "whole numbers": _rewrite(STEM, torch.Tensor.int),
    "wrong shape": _rewrite(STEM, lambda t: t[:1].clone()),
    "wrong rank": _rewrite(STEM, torch.Tensor.flatten),
    "NaN": _rewrite(STEM, lambda t: t * float("nan")),
    "infinity": _rewrite("gate.norm.running_var", lambda t: t + float("inf")),
    "a tensor more": tensors(lambda content: content.update(more=torch.zeros(1))),
    "a tensor less": tensors(lambda content: content.pop(STEM)),
    "no tensor": tensors(dict.clear),
    "another network's": lambda path: safetensors.torch.save_file(
        build(Architecture("cifar_resnet", 8, "basic", 4, 3, "learned", 10), 0).state_dict(), path
    ),
}
OPTIMIZER: dict[str, Callable[[Path], Any]] = {
    "wrong shape": _rewrite(SLOT, torch.Tensor.flatten),
    "NaN": _rewrite(SLOT, lambda t: t * float("nan")),
    "whole numbers": _rewrite(SLOT, torch.Tensor.int),
    "of no parameter": tensors(lambda content: content.update({"momentum_buffer/x": torch.zeros(1)})),
    "without a slot": tensors(lambda content: content.update({STEM: torch.zeros(1)})),
    "header of 2 GB": WEIGHTS["header of 2 GB"],
}


TENSORS = {f"weights, {kind}": ("model.safetensors", damage) for kind, damage in WEIGHTS.items()}
TENSORS |= {f"momentum, {kind}": ("optimizer.safetensors", damage) for kind, damage in OPTIMIZER.items()}


@pytest.mark.parametrize("kind", kinds(TENSORS, 6))
def test_hostile_tensors_are_refused(kind: str, project: Path, imported: Path) -> None:
    """Tensors that are not safetensors, or not those of the record's network, are refused; the file is named."""
    name, damage = TENSORS[kind]
    damage(imported / name)
    if (imported / name).stat().st_size < GIB:
        with_digests(imported)
    ended = run("train", "tiny", "net", "0", folder=project)
    assert_refused(ended, f"imported/{name}")
    assert ended.memory < 2 * GIB


def field(name: str, value: Any) -> Callable[[Path], None]:
    """The record with one changed value in its architecture."""

    def write(path: Path) -> None:
        record = json.loads(path.read_text())
        record["architecture"][name] = value
        path.write_text(json.dumps(record))

    return write


def part(name: str, value: Any) -> Callable[[Path], None]:
    """The record with one changed part."""
    return lambda path: (path.write_text(json.dumps(json.loads(path.read_text()) | {name: value})), None)[1]


RECORDS: dict[str, Callable[[Path], Any]] = {
    "1 GB": sparse(10**9),
    "2 MB": lambda path: path.write_text(path.read_text() + " " * 2 * MIB),
    "deep nesting": raw(b"[" * 10**5),
    "not UTF-8": raw(b'{"files": "\xff"}'),
    "a list": raw(b"[]"),
    "a number of 10,000 digits": raw(b"1" * 10_000),
    "empty": raw(b""),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "files as a list": part("files", ["model.safetensors"]),
    "files as numbers": part("files", {"model.safetensors": float("nan")}),
    "files of other names": part("files", {"../../secret": "0"}),
    "architecture as a text": part("architecture", "x" * 1000),
    "no width": part("architecture", {key: value for key, value in NET.to_dict().items() if key != "width"}),
    "preprocessing as a text": part("preprocessing", "\x1b[2J" * 100),
    "preprocessing of control letters": part("preprocessing", {"mean\n": "\x1b[2J\ud800" * 10_000}),
} | {
    f"{name} {value!r}": field(name, value)
    for name, values in {
        "branches": (10**9, 0, -1, 10**30, "2", True, 2.0, None, [2]),
        "depth": (6 * 10**6 + 2, 6 * 10**30 + 2, 0, -4, 9, 8.0),
        "width": (10**9, 2**62, 10**30, 0, -4, 5),
        "classes": (10**9, 10**30, 0, -1, "10", 11),
        "block": ("bottleneck", "other", ["basic"]),
        "family": ("resnet18", "vit", {}),
        "gate": ("none", "mean", "other"),
        "trunk": ("own", "other"),
    }.items()
    for value in values
}


@pytest.mark.parametrize("kind", kinds(RECORDS, 10))
def test_hostile_record_is_refused(kind: str, project: Path, imported: Path) -> None:
    """A file that is not a record, or a record of a network of another size than its tensors, is refused by name."""
    RECORDS[kind](imported / "model.json")
    ended = run("train", "tiny", "net", "0", folder=project)
    assert_refused(ended, "imported")
    assert ended.memory < 2 * GIB


# --- Parquet shards --------------------------------------------------------------------------------------


def picture(width: int, height: int) -> bytes:
    """A PNG whose header declares this many pixels, without any."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(10 * MIB))) + chunk(b"IEND", b"")


def shard(image: bytes, label: Any = 0) -> Callable[[Path], None]:
    """A shard of one row."""
    return lambda path: write_shard(path, [{"img": {"bytes": image, "path": "x"}, "label": label}])


def swelling(path: Path) -> None:
    """A shard of 1,024 rows that share one image of 16 MiB."""
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), pa.array([bytes(16 * MIB)]))
    column = pa.StructArray.from_arrays([images], ["bytes"])
    table = pa.table({"img": column, "label": pa.array([0] * 1024)})
    pq.write_table(table, path, compression="zstd", store_schema=False, dictionary_pagesize_limit=GIB)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
SHARDS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "picture of 2.5 gigapixels": (shard(picture(50_000, 50_000)), ("row 0", "download the shard again")),
    "picture of 100 megapixels": (shard(picture(10_000, 10_000)), ("row 0", "10000×10000")),
    "picture that inflates": (shard(picture(32, 32)), ()),
    "program in PostScript": (shard(POSTSCRIPT), ("row 0", "cannot be decoded")),
    "rows that swell": (swelling, COSTLY),
    "labels as decimals": (shard(encode(np.zeros((32, 32, 3), np.uint8)), 0.5), ("not integers",)),
    "labels as lists": (shard(encode(np.zeros((32, 32, 3), np.uint8)), [0]), ("not integers",)),
    "pickle": (raw(pickle.dumps(print)), ("is damaged",)),
    "footer of 2 GB": (raw(b"PAR1" + bytes(100) + (2 * GIB - 1).to_bytes(4, "little") + b"PAR1"), ("is damaged",)),
    "folder": (Path.mkdir, ("is not a file",)),
    "link to itself": (lambda path: path.symlink_to(path), ("is not a file",)),
    "fifo": (os.mkfifo, ("is not a file",)),
}


@pytest.mark.parametrize("kind", kinds(SHARDS, 3))
def test_hostile_shard_is_refused(kind: str, tmp_path: Path) -> None:
    """`coopnet prepare` refuses it in one line and with bounded memory; nothing is left that looks finished."""
    write, words = SHARDS[kind]
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "train-0.parquet")
    arguments = "cifar10", "--source", "parquet", "--root", tmp_path / "shards", "--out", tmp_path / "out"
    assert_refused(run("prepare", *arguments, folder=tmp_path), "", *words)
    assert not (tmp_path / "out").exists()


def test_root_that_is_a_file(tmp_path: Path) -> None:
    """A shard in place of its folder is named."""
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1")
    arguments = "cifar10", "--source", "parquet", "--root", tmp_path / "train-0.parquet"
    assert_refused(run("prepare", *arguments, folder=tmp_path), tmp_path / "train-0.parquet", "is not a folder")


@pytest.mark.slow
def test_decoding_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding a shard of a billion rows stops after the limit of processor time."""
    monkeypatch.setattr(sources, "SECONDS", 1)
    images = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(10**6, np.int32)), pa.array([encode(np.zeros((32, 32, 3), np.uint8))])
    )
    table = pa.table({"img": pa.StructArray.from_arrays([images], ["bytes"]), "label": np.zeros(10**6, np.uint8)})
    pq.write_table(table, tmp_path / "train-0.parquet", store_schema=False)
    with pytest.raises(CoopNetError, match="takes more than 1 s"):
        sources.read_parquet(DATASETS["cifar10"], "train", tmp_path, sources.in_memory)


@pytest.fixture(scope="module")
def small() -> dict[str, Arrays]:
    """Nine training and three test images."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    return {"train": Arrays(pixels[:9], labels[:9]), "test": Arrays(pixels[9:], labels[9:])}


@pytest.fixture
def toy(small: dict[str, Arrays]) -> Dataset:
    """The dataset of these images."""
    return Dataset(
        name="toy",
        classes=3,
        counts={split: len(arrays.labels) for split, arrays in small.items()},
        digest={split: canonical.content_digest(*arrays) for split, arrays in small.items()},
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
        sources=("torchvision", "parquet"),
        archive_size=len(archive_fixture.archive(small)),
    )


@pytest.mark.slow
def test_flipped_bits_of_a_shard(tmp_path: Path, toy: Dataset, small: dict[str, Arrays]) -> None:
    """With any flipped bit of a shard the dataset is either correct or refused."""
    for split, arrays in small.items():
        write_shard(tmp_path / f"{split}-0.parquet", rows_of(arrays))
    path, choice = tmp_path / "train-0.parquet", random.Random(0)
    whole, said = path.read_bytes(), []
    for attempt in range(40):
        place = choice.choice([choice.randrange(len(whole)), -choice.randrange(1, 2048)])
        flipped = bytearray(whole)
        flipped[place] ^= 1 << choice.randrange(8)
        path.write_bytes(flipped)
        try:
            canonical.prepare(toy, "parquet", tmp_path, tmp_path / f"out{attempt}")
        except CoopNetError as error:
            said.append(str(error))
            continue
        for split, (images, labels) in canonical.load(tmp_path / f"out{attempt}", toy).items():
            assert canonical.content_digest(images, labels) == toy.digest[split]
    assert len(said) > 10
    assert all("toy" in line or str(tmp_path) in line for line in said)


# --- the official archive --------------------------------------------------------------------------------


class Server(NamedTuple):
    """A server that answers every request with the same bytes."""

    url: str
    answer: list[bytes]


@pytest.fixture
def server() -> Iterator[Server]:
    """A local server with a settable answer; `...` after the answer makes it endless."""
    answer: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for part in answer:
                    self.wfile.write(part)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Server(f"http://127.0.0.1:{running.server_port}/toy", answer)
        running.shutdown()


def test_download_is_kept_when_it_is_right(
    tmp_path: Path, toy: Dataset, small: dict[str, Arrays], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is downloaded once, and read without extraction."""
    archive = archive_fixture.archive(small)
    server.answer.append(archive)
    monkeypatch.setattr(torchvision.datasets, "TOY", archive_fixture.published(archive, server.url), raising=False)
    canonical.prepare(toy, "torchvision", tmp_path / "raw", tmp_path / "out")
    server.answer.clear()
    canonical.prepare(toy, "torchvision", tmp_path / "raw", tmp_path / "again")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [archive_fixture.NAME]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "too short": lambda archive: archive[:-1],
    "too long": lambda archive: archive + b"\0",
    "endless": lambda archive: archive * 1000,
    "nothing": lambda archive: b"",
    "replaced": lambda archive: archive[:-1] + bytes([archive[-1] ^ 1]),
    "a pickle": lambda archive: pickle.dumps(print).ljust(len(archive), b"\0"),
}


@pytest.mark.parametrize("where", ["downloaded", "there"])
@pytest.mark.parametrize("kind", WRONG)
def test_other_archive_is_not_opened(
    where: str,
    kind: str,
    tmp_path: Path,
    toy: Dataset,
    small: dict[str, Arrays],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An archive of another size or digest is refused before it is opened, and the download is deleted."""
    archive = archive_fixture.archive(small)
    monkeypatch.setattr(torchvision.datasets, "TOY", archive_fixture.published(archive, server.url), raising=False)
    monkeypatch.setattr(official.tarfile, "open", None)
    path = tmp_path / "raw" / archive_fixture.NAME
    if where == "there":
        path.parent.mkdir()
        path.write_bytes(WRONG[kind](archive))
    else:
        server.answer.append(WRONG[kind](archive))
    with pytest.raises(CoopNetError, match=r"(bytes|MD5 sum).* instead of .*--source parquet"):
        canonical.prepare(toy, "torchvision", path.parent, tmp_path / "out")
    if where == "downloaded":
        assert list(path.parent.iterdir()) == []
    assert not (tmp_path / "out").exists()


def _linked() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        member = tarfile.TarInfo(f"{archive_fixture.FOLDER}/data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(member)
    return buffer.getvalue()


INSIDE: dict[str, Callable[[Path], bytes]] = {
    "code": lambda place: archive_fixture.pack(
        {f"{archive_fixture.FOLDER}/data_batch_1": pickle.dumps(Bomb(place / "escaped"), 2)}
    ),
    "paths that lead out": lambda place: archive_fixture.pack(
        {"../escaped": b"x", str(place / "escaped"): b"x", f"{archive_fixture.FOLDER}/data_batch_1": b"x"}
    ),
    "link": lambda place: _linked(),
    "other members": lambda place: archive_fixture.pack({"other": b"x"}),
    "no batch": lambda place: archive_fixture.pack({f"{archive_fixture.FOLDER}/data_batch_1": pickle.dumps([1], 2)}),
    "no archive": lambda place: b"x" * 100,
}


@pytest.mark.parametrize("kind", INSIDE)
def test_archive_that_passes_the_check_is_still_read_with_care(
    kind: str, tmp_path: Path, toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if size and digest are right, no code is run and nothing is extracted."""
    archive = INSIDE[kind](tmp_path)
    monkeypatch.setattr(torchvision.datasets, "TOY", archive_fixture.published(archive), raising=False)
    path = tmp_path / "raw" / archive_fixture.NAME
    path.parent.mkdir()
    path.write_bytes(archive)
    object.__setattr__(toy, "archive_size", len(archive))
    with pytest.raises(CoopNetError, match="does not hold the batches of toy") as refused:
        canonical.prepare(toy, "torchvision", path.parent, tmp_path / "out")
    assert str(path) in str(refused.value)
    assert [found.name for found in tmp_path.rglob("*")] == ["raw", archive_fixture.NAME]


def test_archive_of_another_size_is_refused_for_its_size(
    tmp_path: Path, toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is that of the check alone, and does not speak of batches."""
    archive = INSIDE["no archive"](tmp_path)
    monkeypatch.setattr(torchvision.datasets, "TOY", archive_fixture.published(archive), raising=False)
    (tmp_path / archive_fixture.NAME).write_bytes(archive)
    object.__setattr__(toy, "archive_size", len(archive) + 1)
    with pytest.raises(CoopNetError, match="has 100 bytes instead of 101") as refused:
        canonical.prepare(toy, "torchvision", tmp_path, tmp_path / "out")
    assert "batches" not in str(refused.value)


# --- the confinement itself ------------------------------------------------------------------------------


def test_work_is_confined(tmp_path: Path) -> None:
    """Results are returned unchanged, files cannot be written, and the crash of a reader is reported."""
    path = tmp_path / "file"
    limits: dict[str, int] = {"memory": 100 * MIB, "seconds": 5}
    assert confined.run(lambda: [b"", b"x" * MIB], path, **limits) == [b"", b"x" * MIB]

    def write() -> list[bytes]:
        with contextlib.suppress(OSError):
            path.write_bytes(b"x")
        return [path.read_bytes()]

    assert confined.run(write, path, **limits) == [b""]
    with pytest.raises(CoopNetError, match="was stopped by SIGKILL"):
        confined.run(lambda: os.kill(os.getpid(), signal.SIGKILL) or [], path, **limits)
    reader = confined.Reader(lambda: [b"x" * 50 * MIB], path, memory=200 * MIB, seconds=5)
    assert reader._receiver.poll(5)
    os.kill(reader._child.pid or 0, signal.SIGKILL)  # in the middle of its answer
    with pytest.raises(CoopNetError, match="was stopped by SIGKILL"):
        reader.result()
    with pytest.raises(CoopNetError, match="needs more than 100 MiB"):  # more than tests before can have left free
        confined.run(lambda: [bytes(4 * GIB)[:1]], path, **limits)
    with pytest.raises(RuntimeError, match="failed"):
        confined.run(lambda: [b"%d" % (1 // 0)], path, **limits)


def test_reader_needs_none_of_its_parent_s_threads(tmp_path: Path) -> None:
    """PyTorch computes in a reader although its parent computed with several threads, which a fork does not copy."""
    threads, large = torch.get_num_threads(), 2**20
    torch.set_num_threads(2)
    try:
        torch.zeros(large).exp()
        reader = confined.Reader(lambda: [b"%d" % torch.ones(large).sum()], tmp_path, memory=100 * MIB, seconds=5)
        try:
            assert reader._receiver.poll(60), "the reader waits for threads that do not exist"
            assert reader.result() == [b"%d" % large]
        finally:
            reader._child.kill()
    finally:
        torch.set_num_threads(threads)


def test_readers_are_at_work_together(tmp_path: Path) -> None:
    """Results come in order, at most so many readers run at once, and after an error none is left."""
    begun = np.frombuffer(mmap.mmap(-1, 6 * 8), dtype=np.int64)

    def reader(number: int) -> confined.Reader:
        def work() -> list[bytes]:
            begun[number] = 1
            deadline = time.monotonic() + {1: 3, 4: 60}.get(number, 0)
            while not begun[5 if number == 4 else 2] and time.monotonic() < deadline:
                time.sleep(0.01)
            if number == 3:
                raise CoopNetError("the third")
            return [bytes(begun[1:3].tolist())]

        return confined.Reader(work, tmp_path, memory=100 * MIB, seconds=5)

    results = confined.in_turn(map(reader, range(1, 5)), at_once=2)
    assert [next(results), next(results)] == [[bytes([1, 1])]] * 2
    with pytest.raises(CoopNetError, match="the third"):
        next(results)
    assert not multiprocessing.active_children()
    begun[:] = 0
    assert next(confined.in_turn(map(reader, range(1, 5)), at_once=1)) == [bytes([1, 0])]


def test_prepared_arrays_of_another_form_are_refused(tmp_path: Path, toy: Dataset, small: dict[str, Arrays]) -> None:
    """Arrays of another type or shape are refused although the manifest names them."""
    for split, arrays in small.items():
        write_shard(tmp_path / f"{split}-0.parquet", rows_of(arrays))
    canonical.prepare(toy, "parquet", tmp_path, tmp_path / "out")
    path, manifest = tmp_path / "out" / "test.safetensors", tmp_path / "out" / "manifest.json"
    safetensors.torch.save_file({"images": torch.zeros(3, 32, 32, 3, dtype=torch.bfloat16)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(
        json.dumps(
            json.loads(manifest.read_text())
            | {
                "files": {path.name: digest}
                | {"train.safetensors": files.sha256(tmp_path / "out" / "train.safetensors")}
            }
        )
    )
    with pytest.raises(CoopNetError, match=r"test\.safetensors"):
        canonical.load(tmp_path / "out", toy)


def test_limits_are_those_that_are_promised() -> None:
    """docs/guarantees.md names these numbers and formats."""
    assert (lan2018.MEMORY, lan2018.COPIES, lan2018.SECONDS) == (512 * MIB, 8, 120)
    assert (sources.MEMORY, sources.COPIES, sources.SECONDS) == (GIB, 6, 600)
    assert shards.LOSSLESS == ("PNG", "BMP", "WEBP")
