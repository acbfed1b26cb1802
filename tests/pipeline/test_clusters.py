"""Profiles and commands for clusters, tested with dry runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from tiny_fixture import call, make_workspace

DEFAULT, SLURM = (yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text()) for name in ("default", "slurm"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A workspace in which nothing was made yet."""
    return make_workspace(tmp_path_factory.mktemp("clusters") / "workspace", prepared)


def planned(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A dry run of the tiny study, with its commands."""
    return call(workspace, "snakemake", "--dry-run", "--printshellcmds", *arguments, "--config", "study=tiny")


def test_profile_for_slurm_is_as_safe_as_the_default() -> None:
    """It replaces profiles/default, so it repeats all its settings, except the number of GPUs."""
    assert {key: SLURM.get(key) for key in DEFAULT if key != "resources"} == {
        key: value for key, value in DEFAULT.items() if key != "resources"
    }


SHORT = ("--set-resources", "train_one_run:runtime=3", "finetune_run:runtime=3")
"""Three minutes for the jobs that train."""


def test_jobs_stop_before_their_time_limit(workspace: Path) -> None:
    """With the profile a run of 4 hours saves after 235 minutes, a short one after half its time."""
    profile = ("--workflow-profile", "profiles/slurm")
    for more, minutes in (((), "235"), (SHORT, "1.5")):
        done = planned(workspace, *profile, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert set(re.findall(r"--max-minutes (\S+)", done.stdout)) == {minutes}
        assert done.stdout.count("--max-minutes") == 4


def test_a_machine_of_ones_own_sets_no_time_limit(workspace: Path) -> None:
    """Without a scheduler a run continues until it is done."""
    done = planned(workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "coopnet train tiny one3 0" in done.stdout
    assert "--max-minutes" not in done.stdout


def test_command_of_the_kubernetes_job_is_one_that_snakemake_takes(workspace: Path) -> None:
    """Its arguments give a plan, for the number of GPUs of the pod."""
    job = yaml.safe_load((ROOT / "profiles/kubernetes/job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = [argument.replace("study=full", "study=tiny") for argument in container["args"]]
    done = call(workspace, "snakemake", "--dry-run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"gpu={container['resources']['limits']['nvidia.com/gpu']}" in arguments
    assert "train_one_run" in done.stdout


@pytest.mark.parametrize("page", ["docs/clusters.md", "docs/performance.md"])
def test_profiles_that_the_pages_name_are_there(page: str) -> None:
    """Every path to a profile or a test in the pages about machines exists."""
    named = set(re.findall(r"`?((?:profiles|tests)/[\w./-]*\w)", (ROOT / page).read_text()))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_commands_of_the_page_are_known(workspace: Path) -> None:
    """Snakemake accepts every `snakemake` command of docs/clusters.md."""
    text = (ROOT / "docs/clusters.md").read_text()
    commands = re.findall(r"^(?:[A-Z_]+=\S+ )*(snakemake .*?)(?: +#.*)?$", text, re.MULTILINE)
    assert commands
    for command in commands:
        words = shlex.split(re.sub(r"study=\w+", "study=tiny", command))
        assert call(workspace, *words, "--dry-run").returncode == 0, command
