"""The run store keeps finished runs intact, allows one process per run, and is found from every workspace."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import flip
from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.runs import store
from coopnet.runs.records import RECORD
from coopnet.runs.store import Store, default_place

KEY = "0123456789abcdef"
FILES = {"model.safetensors": b"weights" * 1000, "history.csv": b"epoch,lr\n0,0.1\n"}


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "runs-of-all")


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, Path]:
    """The workspace paths of a run's files: in two folders, as in a workspace."""
    return {
        "model.safetensors": tmp_path / "checkpoints" / "model.safetensors",
        "history.csv": tmp_path / "results" / "history.csv",
        RECORD: tmp_path / "results" / RECORD,
    }


def contents(targets: dict[str, Path]) -> dict[str, bytes]:
    """The content of these files, except the record."""
    return {name: path.read_bytes() for name, path in targets.items() if name != RECORD}


def make(runs: Store, key: str = KEY) -> None:
    """Add a finished run."""
    folder = runs.unfinished(key) / "files"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    digests = {name: files.sha256(folder / name) for name in FILES}
    files.write_json(folder / RECORD, files.sealed({"key": key, "files": digests}))
    runs.add(key, folder)


def one_line(error: pytest.ExceptionInfo[CoopNetError]) -> str:
    """The error message, which must be one line."""
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    return message


# Its folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `.dvc` in it, and no COOPNET_STORE."""
    monkeypatch.delenv("COOPNET_STORE")
    (tmp_path / "main" / ".dvc").mkdir(parents=True)
    return tmp_path / "main"


def configure(workspace: Path, name: str, folder: str) -> None:
    """Set DVC's cache folder like `dvc cache dir`."""
    (workspace / ".dvc").mkdir(parents=True, exist_ok=True)
    text = f"[core]\n    analytics = false\n['remote \"there\"']\n    url = ../there\n[cache]\n    dir = {folder}\n"
    (workspace / ".dvc" / name).write_text(text, encoding="utf-8")


def git(folder: Path, *arguments: str) -> None:
    """Run git there, independent of this user's configuration."""
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def linked_worktree(workspace: Path) -> Path:
    """A real linked worktree of a real repository."""
    git(workspace, "init")
    git(workspace, "commit", "--allow-empty", "-m", "start")
    linked = workspace.parent / "linked"
    git(workspace, "worktree", "add", str(linked))
    return linked


def test_default_is_in_dvcs_default_cache(workspace: Path) -> None:
    """Without configuration the store is in DVC's cache folder, where `dvc gc` does not delete it."""
    assert default_place(workspace) == workspace / ".dvc" / "cache" / "coopnet-runs"


def test_environment_comes_first(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COOPNET_STORE takes precedence over every configuration."""
    configure(workspace, "config.local", "/elsewhere")
    monkeypatch.setenv("COOPNET_STORE", str(workspace / "mine"))
    assert default_place(workspace) == workspace / "mine"


def test_empty_environment_is_none(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`COOPNET_STORE= command` selects the default."""
    monkeypatch.setenv("COOPNET_STORE", "")
    assert default_place(workspace) == workspace / ".dvc" / "cache" / "coopnet-runs"


def test_relative_environment_does_not_move_with_the_process(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative COOPNET_STORE is resolved at once, relative to the current folder."""
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("COOPNET_STORE", "mine")
    assert default_place(workspace) == workspace / "mine"


def test_dvcs_cache_folder_is_followed(workspace: Path) -> None:
    """A cache folder in `.dvc/config` is relative to `.dvc`, as for DVC."""
    configure(workspace, "config", "../../cache")
    assert default_place(workspace) == workspace.parent / "cache" / "coopnet-runs"


def test_local_configuration_wins_over_shared(workspace: Path) -> None:
    """`.dvc/config.local` is local to this machine."""
    configure(workspace, "config", "../../common")
    configure(workspace, "config.local", str(workspace.parent / "own"))
    assert default_place(workspace) == workspace.parent / "own" / "coopnet-runs"


@pytest.mark.parametrize("written", ["'{}'", '"{}"', "{}  # a comment"])
def test_cache_folder_may_be_quoted_or_commented(written: str, workspace: Path) -> None:
    """Quotes and comments are removed from the value, as DVC does."""
    folder = workspace.parent / "with space %(x)s"
    configure(workspace, "config", written.format(folder))
    assert default_place(workspace) == folder / "coopnet-runs"


@pytest.mark.parametrize("content", [b"no section\n", b"[cache]\ndir\n", b"[cache]\ndir = \xff\n"])
def test_damaged_configuration_is_refused(content: bytes, workspace: Path) -> None:
    """An unreadable configuration is named in one line."""
    (workspace / ".dvc" / "config").write_bytes(content)
    with pytest.raises(CoopNetError) as error:
        default_place(workspace)
    assert str(workspace / ".dvc" / "config") in one_line(error)


def test_linked_worktree_shares_the_default_store(workspace: Path) -> None:
    """A checkout made by `git worktree add` finds the runs of its main worktree."""
    linked = linked_worktree(workspace)
    assert default_place(linked) == default_place(workspace) == workspace / ".dvc" / "cache" / "coopnet-runs"


@pytest.mark.parametrize("name", ["config", "config.local"])
def test_linked_worktree_shares_the_configured_store(name: str, workspace: Path) -> None:
    """It finds the runs even if only the main worktree has the (uncommitted) configuration."""
    linked = linked_worktree(workspace)
    configure(workspace, name, "../../big-disk")
    configure(linked, "config", "../../big-disk") if name == "config" else None
    assert default_place(linked) == default_place(workspace) == workspace.parent / "big-disk" / "coopnet-runs"


def test_linked_worktree_with_a_relative_link(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git may write the path to the main worktree relative to the linked one (worktree.useRelativePaths)."""
    linked = linked_worktree(workspace)
    (linked / ".git").write_text("gitdir: ../main/.git/worktrees/linked\n", encoding="utf-8")
    monkeypatch.chdir("/")
    assert default_place(linked) == default_place(workspace)


def test_worktrees_of_a_bare_repository_have_their_own_stores(workspace: Path) -> None:
    """The folder beside a bare repository is nobody's."""
    linked_worktree(workspace)
    git(workspace.parent, "clone", "--bare", "main", "bare.git")
    git(workspace.parent / "bare.git", "worktree", "add", "../of-bare", "-b", "another")
    place = workspace.parent / "of-bare"
    assert default_place(place) == place / ".dvc" / "cache" / "coopnet-runs"


def test_worktrees_that_share_the_store_are_found(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From each of them, in a folder of the project too; one with a cache of its own, and a removed one, are none."""
    linked = linked_worktree(workspace)
    assert store.other_worktrees(workspace) == [linked]
    assert store.other_worktrees(linked) == [workspace]
    configure(linked, "config.local", "../../own")
    assert store.other_worktrees(workspace) == []
    shutil.rmtree(linked)
    assert store.other_worktrees(workspace) == []
    assert store.other_worktrees(workspace.parent) == []
    monkeypatch.setattr(store.provenance, "git", lambda *_: None)
    assert store.other_worktrees(workspace.parent) == []
    with pytest.raises(CoopNetError, match="git cannot list the worktrees"):
        store.other_worktrees(workspace)


def test_temporary_workspace_of_dvc_shares_the_store(workspace: Path) -> None:
    """`dvc exp run --temp` clones into `.dvc/tmp/exps` and sets the original cache in the local configuration."""
    temporary = workspace / ".dvc" / "tmp" / "exps" / "tmpabc"
    (temporary / ".git").mkdir(parents=True)
    configure(temporary, "config.local", str(workspace / ".dvc" / "cache"))
    assert default_place(temporary) == default_place(workspace)


# Its entries


def test_added_run_can_be_taken(runs: Store, targets: dict[str, Path]) -> None:
    """An added run is finished, and is copied byte for byte into folders that did not exist."""
    assert not runs.finished(KEY)
    make(runs)
    assert runs.finished(KEY)
    assert runs.restore(KEY, targets)
    assert contents(targets) == FILES


def test_records_are_copied_last(runs: Store, targets: dict[str, Path], tmp_path: Path) -> None:
    """If a workspace has the record, it has all files that the record names."""
    make(runs)
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(CoopNetError, match="cannot write"):
        runs.restore(KEY, targets)
    assert not targets[RECORD].exists()


def test_unknown_run_cannot_be_taken(runs: Store, targets: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """For a run that was never made, nothing is written or logged, and the store is not created."""
    assert not runs.restore(KEY, targets)
    assert not any(path.exists() for path in (*targets.values(), runs.place))
    assert not caplog.records


def test_taken_files_are_copies(runs: Store, targets: dict[str, Path]) -> None:
    """There are no hard links: in-place damage to an output does not reach the store."""
    make(runs)
    runs.restore(KEY, targets)
    for name, path in targets.items():
        assert path.stat().st_nlink == 1
        with path.open("r+b") as handle:
            handle.write(b"damaged")
        assert b"damaged" not in (runs.folder(KEY) / name).read_bytes()


def test_damaged_output_is_replaced(runs: Store, targets: dict[str, Path]) -> None:
    """Copying a run again restores files that are damaged or missing in the workspace."""
    make(runs)
    runs.restore(KEY, targets)
    targets["model.safetensors"].write_bytes(b"damaged")
    targets["history.csv"].unlink()
    assert runs.restore(KEY, targets)
    assert contents(targets) == FILES


def test_good_output_is_left_alone(runs: Store, targets: dict[str, Path]) -> None:
    """A correct file is not written again, but gets a new date: an engine that compares dates has requested it."""
    make(runs)
    runs.restore(KEY, targets)
    before = [path.stat().st_ino for path in targets.values()]
    for path in targets.values():
        os.utime(path, (0, 0))
    runs.restore(KEY, targets)
    assert [path.stat().st_ino for path in targets.values()] == before
    assert all(path.stat().st_mtime > 0 for path in targets.values())


DAMAGES = {
    "flipped bit": ("model.safetensors", flip),
    "truncated": ("model.safetensors", lambda path: os.truncate(path, 10)),
    "emptied": ("history.csv", lambda path: os.truncate(path, 0)),
    "lost": ("history.csv", Path.unlink),
    "lost record": (RECORD, Path.unlink),
    "truncated record": (RECORD, lambda path: os.truncate(path, 30)),
    "empty record": (RECORD, lambda path: path.write_text("{}", encoding="utf-8")),
    "record of another kind": (RECORD, lambda path: path.write_text('{"files": [1]}', encoding="utf-8")),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_entry_is_set_aside(
    name: str, damage, runs: Store, targets: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """It is not copied, its file is named in the log, nothing reaches the workspace, and the entry is kept aside."""
    make(runs)
    damage(runs.folder(KEY) / name)
    with caplog.at_level(logging.WARNING):
        assert not runs.restore(KEY, targets)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(runs.folder(KEY) / name) in caplog.text
    assert not any(path.exists() for path in targets.values())
    assert not runs.finished(KEY)
    assert (runs.place / "damaged" / KEY).is_dir()


@pytest.mark.parametrize("damage", [damage for name, damage in DAMAGES.items() if "lost" in name or "record" in name])
def test_visible_damage_is_not_finished(damage, runs: Store) -> None:
    """The quick check finds everything that the record and the file names show, without exceptions."""
    make(runs)
    name, spoil = damage
    spoil(runs.folder(KEY) / name)
    assert not runs.finished(KEY)


def test_entry_that_lacks_a_needed_file_is_set_aside(
    runs: Store, targets: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """An entry of a version that wrote other files is made again."""
    make(runs)
    assert not runs.restore(
        KEY, targets | {"logits.safetensors": targets["history.csv"].with_name("logits.safetensors")}
    )
    assert "logits.safetensors" in caplog.text


@pytest.mark.parametrize("notice", [True, False])
def test_run_can_be_made_again_after_damage(notice: bool, runs: Store, targets: dict[str, Path]) -> None:
    """Adding replaces a damaged entry, whether or not it was set aside, and even if an older one was."""
    for _ in range(2):
        make(runs)
        flip(runs.folder(KEY) / "model.safetensors")
        if notice:
            runs.restore(KEY, targets)
    make(runs)
    assert runs.restore(KEY, targets)
    assert targets["model.safetensors"].read_bytes() == FILES["model.safetensors"]


def test_entries_do_not_mix(runs: Store, targets: dict[str, Path]) -> None:
    """Damage to one entry does not affect another."""
    make(runs)
    make(runs, "other")
    flip(runs.folder("other") / "history.csv")
    assert not runs.restore("other", targets)
    assert runs.restore(KEY, targets)


# Its locks

RACE = """
import sys
from pathlib import Path
from coopnet import files
from coopnet.runs import store
runs, out = store.Store(Path(sys.argv[1])), Path(sys.argv[2])
lock = runs.lock("key")
print("ready", flush=True)
sys.stdin.readline()
store.acquire(lock, "one3/seed0")
if runs.restore("key", {"model": out / "model", "run.json": out / "run.json"}):
    print("taken")
else:
    folder = runs.unfinished("key") / "files"
    folder.mkdir(parents=True)  # would fail if the other were at it
    (folder / "model").write_text("weights")
    record = {"key": "key", "files": {"model": files.sha256(folder / "model")}}
    files.write_json(folder / "run.json", files.sealed(record))
    sys.stdin.readline()
    runs.add("key", folder)
    print("made")
lock.release()
"""

HOLD = """
import sys
from pathlib import Path
from coopnet.runs import store
lock = store.Store(Path(sys.argv[1])).lock("key")
store.acquire(lock, "one3/seed0")
print("held", flush=True)
sys.stdin.readline()
"""


def start(script: str, *arguments: Path) -> subprocess.Popen[str]:
    """Another process, controlled through its pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_make_a_run_once(runs: Store, tmp_path: Path) -> None:
    """Of two processes with one key, one makes the run; the other waits for it and copies it."""
    processes = [start(RACE, runs.place, tmp_path / name) for name in "ab"]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 2
    for process in processes:
        assert process.stdin
        process.stdin.write("go\nfinish\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(said) == ["made\n", "taken\n"]


def test_lock_is_held_against_others(runs: Store) -> None:
    """While one process makes a run, another one cannot."""
    holder = start(HOLD, runs.place)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError):
        runs.lock("key").acquire(timeout=0)
    runs.lock("other key").acquire(timeout=0)
    holder.communicate("go\n", timeout=60)
    runs.lock("key").acquire(timeout=0)


def test_lock_dies_with_its_owner(runs: Store) -> None:
    """After kill -9 no lock has to be removed by hand."""
    holder = start(HOLD, runs.place)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=60)
    runs.lock("key").acquire(timeout=0)


def test_waiting_is_announced(runs: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A process that waits logs the name of the run."""
    holder = start(HOLD, runs.place)
    assert holder.stdin
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"

    class Release(logging.Handler):
        """Ends the holder as soon as the waiting is logged."""

        def emit(self, record: logging.LogRecord) -> None:
            assert "one3/seed0 is being made by another process" in record.getMessage()
            holder.stdin.write("go\n")
            holder.stdin.flush()

    handler = Release()
    store.log.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO):
            store.acquire(runs.lock("key"), "one3/seed0")
    finally:
        store.log.removeHandler(handler)
    assert holder.wait(timeout=60) == 0


# A folder that cannot be written


def test_store_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """An unwritable store gives one line with its path and COOPNET_STORE."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(CoopNetError, match="COOPNET_STORE") as error:
        Store(tmp_path / "file" / "store").lock(KEY)
    assert str(tmp_path / "file" / "store") in one_line(error)


def test_entry_that_cannot_be_added_is_refused(runs: Store) -> None:
    """The same if a finished run cannot be moved into it."""
    runs.place.mkdir()
    (runs.place / "runs").write_text("not a folder", encoding="utf-8")
    with pytest.raises(CoopNetError, match="COOPNET_STORE") as error:
        make(runs)
    assert str(runs.place) in one_line(error)


def test_lock_that_cannot_be_taken_is_refused(runs: Store) -> None:
    """The same if the lock file cannot be opened."""
    (runs.place / "locks" / f"{KEY}.lock").mkdir(parents=True)
    with pytest.raises(CoopNetError, match="COOPNET_STORE") as error:
        store.acquire(runs.lock(KEY), "one3/seed0")
    assert str(runs.place) in one_line(error)
