"""A CUDA graph that cannot be recorded: the run continues by itself, in a new process and another mode."""

import subprocess
import sys
from pathlib import Path

import pytest

from coopnet.files.errors import CoopNetError
from coopnet.runs import provenance
from tiny_fixture import bits, make_workspace, train

BROKEN = """
import sys
from coopnet import cli
from coopnet.training import graph


class Broken:
    def warm_up(self, work):
        work()

    def record(self, work):
        raise RuntimeError("operation not permitted when stream is capturing")


graph.RECORDERS["cpu"] = Broken
sys.argv = ["coopnet", *sys.argv[1:]]
cli.main()
"""
"""`coopnet` on a CPU that pretends to record graphs, and fails."""


def test_run_goes_on_in_a_fresh_process(
    workspace: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line has run, mode, reason and next mode; the command succeeds, with evaluation and the usual bits."""
    words = ("train", "tiny", "one3", "0", "--evaluate", "--max-minutes", "5")
    done = subprocess.run([sys.executable, "-c", BROKEN, *words], cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "COOPNET_LAUNCH" in line]
    assert line == (
        "tiny/one3/0: no CUDA graph could be recorded in the mode graph (RuntimeError: operation not permitted when "
        "stream is capturing); the run goes on in a fresh process with COOPNET_LAUNCH=serial"
    )
    assert (workspace / "checkpoints/tiny/train_one/one3/seed0/metrics.json").is_file()
    other = make_workspace(tmp_path / "other", prepared)
    monkeypatch.setenv("COOPNET_STORE", str(tmp_path / "other-store"))
    assert train(other, "one3").returncode == 0
    ours, theirs = bits(workspace), bits(other)
    assert theirs
    assert {name: ours[name] for name in theirs} == theirs


def test_commit_of_source_without_git_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a repository `COOPNET_COMMIT` names the commit, and must be a full commit hash."""
    monkeypatch.setenv(provenance.COMMIT, "c0ffee" * 6 + "c0ff")
    assert provenance.code()["commit"] != "c0ffee" * 6 + "c0ff"  # the repository takes precedence
    git = provenance.git
    monkeypatch.setattr(provenance, "git", lambda *asked: None if asked[1] == "ls-files" else git(*asked))
    assert provenance.code()["commit"] == "c0ffee" * 6 + "c0ff"  # a repository that does not have this source
    assert provenance.code()["modified"] is None
    monkeypatch.setattr(provenance, "git", lambda *asked: None)
    assert (provenance.code()["commit"], provenance.code()["modified"]) == ("c0ffee" * 6 + "c0ff", None)
    monkeypatch.setenv(provenance.COMMIT, "main")
    with pytest.raises(CoopNetError, match="COOPNET_COMMIT is 'main'; set it to the full hexadecimal hash of a commit"):
        provenance.code()
    monkeypatch.delenv(provenance.COMMIT)
    assert provenance.code()["commit"] is None
