"""A really full disk gives one clear error, nothing half-written under a final name, and work continues afterwards."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from coopnet import cli
from coopnet.files.errors import CoopNetError
from coopnet.runs.resume import INDEX, ResumeFolder
from coopnet.runs.stop import TIME_IS_UP
from coopnet.runs.store import JOURNAL
from coopnet.runs.workspace import EVALUATED, GATHERED, MADE, TABLES
from finished_fixture import Home, bring_in, fill, made_once, small_disk

KB = 1024
STATE = ("state.json", "a.safetensors", "b.safetensors")


@dataclass(frozen=True)
class Stage:
    """A command, and the files that are removed before it.

    Attributes:
        lost: patterns of files that the command has to make.
        make: the command.
        room: bytes left on the disk, so that it fails at different files; with the first value it must fail.
    """

    lost: Sequence[str]
    make: Callable[[Home], object]
    room: Sequence[int]


def finish(home: Home) -> None:
    """Train the interrupted run to its end."""
    assert home.train("unfinished", "one3", 2) == 0


def go_on(home: Home) -> None:
    """Train the interrupted run for one step, and save."""
    assert home.train("unfinished", "one3", 2, 0) == TIME_IS_UP


RUN = "workspace/checkpoints/tiny/train_one/one3/seed0"
GROWN = "workspace/checkpoints/tiny/transfer/one3_to_5_split/seed0"
TABLED = (
    *(f"workspace/results/tiny/tables/{name}" for name in TABLES),
    *(f"workspace/results/tiny/{n}" for n in GATHERED),
)

STAGES = {
    "prepare": Stage(["workspace/data/prepared/digits/*"], Home.prepare, [0, 4096 * KB, 5396 * KB]),
    "state": Stage([], go_on, [0, 100 * KB]),
    "checkpoint": Stage([], finish, [0, 60 * KB, 160 * KB, 200 * KB, 240 * KB, 300 * KB, 400 * KB]),
    "copy": Stage([f"{RUN}/{name}" for name in MADE], Home.train, [0, 64 * KB, 128 * KB, 132 * KB]),
    "transfer": Stage([f"{GROWN}/{name}" for name in MADE], Home.transfer, [0, 64 * KB, 128 * KB]),
    "evaluate": Stage([f"{RUN}/{name}" for name in EVALUATED], Home.evaluate, [0, 4 * KB, 8 * KB, 16 * KB]),
    "tables": Stage(TABLED, Home.tables, [0, 8 * KB, 40 * KB, 84 * KB, 120 * KB]),
    "claims": Stage(["workspace/results/tiny/claims.json"], Home.claims, [0, 4 * KB, 8 * KB]),
    "timing": Stage(["workspace/reports/tiny/timing.html"], Home.timing, [0, 4 * KB, 8 * KB]),
    "stamps": Stage(["workspace/.stamps/tiny/*"], Home.refresh, [0, 4 * KB, 32 * KB]),
    "import": Stage(["workspace/imported/net/*"], bring_in, [0, 1100 * KB, 2100 * KB]),
}
SLOW = {"report": Stage(["workspace/reports/tiny/*"], Home.report, [0, 64 * KB, 400 * KB, 800 * KB, 1200 * KB])}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The finished study with all its runs."""
    home = made_once(tmp_path_factory).copy(tmp_path_factory.mktemp("undisturbed") / "home")
    finish(home)
    return home


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    with small_disk(tmp_path / "disk", "48m") as folder:
        yield folder


@pytest.mark.parametrize(
    ("name", "room"),
    [
        *(pytest.param(name, room, id=f"{name}-{room}") for name, stage in STAGES.items() for room in stage.room),
        *(
            pytest.param(name, room, id=f"{name}-{room}", marks=pytest.mark.slow)
            for name, stage in SLOW.items()
            for room in stage.room
        ),
    ],
)
def test_full_disk(
    name: str, room: int, undisturbed: Home, disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One line names the file; existing files are intact; afterwards all bits are the same."""
    stage = (STAGES | SLOW)[name]
    if name in SLOW:
        stage.make(undisturbed)
    skipped = "" if name == "checkpoint" else "/unfinished/"
    expected = {path: content for path, content in undisturbed.promised().items() if not skipped or skipped not in path}
    home = made_once(tmp_path_factory).copy(disk / "home")
    for pattern in stage.lost:
        for path in home.root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    ballast = fill(disk, room)
    told = None
    try:
        stage.make(home)
    except CoopNetError as error:
        told = str(error)
    if room == 0:
        assert told is not None
    if told is not None:
        assert len(told.splitlines()) == 1
        assert "the disk is full; free some space" in told, told
        assert str(home.root) in told
    nothing_half_written(home, undisturbed)
    assert resumable(home) or told is None
    ballast.unlink()
    stage.make(home)
    assert home.promised() == expected
    for line in (home.root / "store" / JOURNAL).read_text().splitlines()[-1:]:
        json.loads(line)


def nothing_half_written(home: Home, undisturbed: Home) -> None:
    """Every file with a final name is complete, in its old or its final version; no other files are left."""
    final = undisturbed.files()
    for name, path in home.files().items():
        if path.name.startswith("timing.") or path.name in (*STATE, "digests.json", JOURNAL) or "/.stamps/" in name:
            continue
        assert not path.name.startswith("."), f"{name} was left behind"
        if "/unfinished/" in name:
            continue
        assert name in final, name
        assert name.endswith(".lock") or path.read_bytes() == final[name].read_bytes(), name


def resumable(home: Home) -> bool:
    """Whether both interrupted runs can be resumed."""
    found = []
    for index in sorted(home.root.glob(f"store/unfinished/*/*/{INDEX}")):
        identity = json.loads(index.read_text())["identity"]
        found.append(ResumeFolder(index.parent.parent, identity).load() is not None)
    return found == [True, True]


def test_command_says_so_in_one_line(
    disk: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command line exits with 1 and one line."""
    home = made_once(tmp_path_factory).copy(disk / "home")
    fill(disk, 0)
    monkeypatch.chdir(home.workspace.root)
    monkeypatch.setattr("sys.argv", ["coopnet", "tables", "tiny"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("coopnet: error: cannot write results/tiny/tables/")
    assert said[0].endswith("the disk is full; free some space and run the same command again")


def test_full_disk_for_temporary_files(
    disk: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PDF is typeset in the system's folder for temporary files, which may be full when the workspace is not."""
    from coopnet.report import pdf
    from coopnet.report.document import Report

    fill(disk, 0)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(CoopNetError, match="the disk is full"):
        pdf.write(Report("tiny", "Tiny", "", [], None, [], [], []), tmp_path / "figures", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
