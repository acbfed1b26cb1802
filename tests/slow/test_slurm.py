"""The workflow on a real Slurm cluster, two nodes on the loopback interface, with the delivered profile.

Training processes are really stopped, killed, requeued and moved; `cluster.sh` describes the cluster.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from coopnet import study as studies
from engines_fixture import Watched
from test_demo import begin, make
from tiny_fixture import BIN, TINY, bits, call, make_workspace

CLUSTER = Path(__file__).parent / "slurm" / "cluster.sh"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol")
MISSING = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Debian's slurm-wlm and munge are not here: {MISSING}"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start a cluster"),
]

LINEAGE = TINY | {"time_scale": 0.04, "only": ["one3", "one3_to_5_masked"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The running, idle cluster; returns its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True)
    if started.returncode == 3:
        pytest.skip(started.stderr)
    try:
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        subprocess.run([CLUSTER, "stop", folder])


@pytest.fixture(autouse=True)
def all_nodes(cluster: Path) -> Iterator[None]:
    """After a test both nodes are available, and no job is left."""
    yield
    subprocess.run(["scancel", "--user=root"])
    for node in ("one", "two"):
        if not Path("/proc", (cluster / f"slurmd-{node}.pid").read_text().strip()).exists():
            subprocess.run(["slurmd", "-N", node], check=True)
        with contextlib.suppress(subprocess.CalledProcessError):  # the node was available
            control("update", f"NodeName={node}", "State=RESUME")


def control(*arguments: str) -> str:
    """Run `scontrol`."""
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout


def workspace(folder: Path, prepared: Path, study: dict[str, Any]) -> Path:
    """A workspace with a study `tiny`."""
    made = make_workspace(folder, prepared)
    (made / "studies" / "tiny.yaml").write_text(yaml.safe_dump(study))
    return made


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of the two runs of `LINEAGE` without Slurm, one after the other, from an empty store."""
    folder = workspace(tmp_path_factory.mktemp("undisturbed") / "workspace", prepared, LINEAGE)
    for experiment in LINEAGE["only"]:
        steps = [("train",), ("evaluate",)]
        if experiment == "one3_to_5_masked":
            steps = [("transfer",), ("evaluate", "--at-transfer"), *steps]
        for command, *options in steps:
            arguments = ("coopnet", command, "tiny", experiment, "0", *options)
            done = call(folder, *arguments, store=str(folder / "store"))
            assert done.returncode == 0, done.stderr
    return bits(folder)


PHASES = {name: run.phase for (name, _), run in studies.load(ROOT, "demo_all").runs.items()}
"""The phase that makes the runs of a row."""


def made(*experiments: str) -> list[str]:
    """The Snakemake targets with which runs are trained and evaluated, without later steps."""
    return [f"checkpoints/tiny/{PHASES[experiment]}/{experiment}/seed0/run.json" for experiment in experiments]


class OnSlurm(Watched):
    """A study that runs through Snakemake and Slurm, from an empty store.

    Attributes:
        folder: its workspace.
        process: Snakemake, in its own process group.
    """

    def __init__(self, folder: Path, *arguments: str, study: str = "tiny"):
        self.folder = folder
        command = [BIN / "snakemake", *arguments, "--workflow-profile", "profiles/slurm", "--config", f"study={study}"]
        command += ["--slurm-no-account", "--slurm-status-command", "squeue"]  # the cluster has no accounting
        command += ["--slurm-init-seconds-before-status-checks", "2"]
        environment = os.environ | {"COOPNET_STORE": str(folder / "store"), "COOPNET_SAVE_SECONDS": "0"}
        with (folder / "snakemake.log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def said(self) -> str:
        """The output of Snakemake so far."""
        return (self.folder / "snakemake.log").read_text()

    def events(self, experiment: str) -> list[dict[str, Any]]:
        """The events of a run in the journal."""
        journal = self.folder / "store" / "journal.jsonl"
        lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        return [line for line in lines if line["run"] == f"tiny/{experiment}/seed0"]

    def halted(self, experiment: str) -> "Job":
        """The job of a run that has saved an epoch and is stopped during a later one."""

        def job() -> "Job | None":
            begun = [event for event in self.events(experiment) if event["event"] in ("trained", "resumed")]
            saved = begun and list((self.folder / "store/unfinished" / begun[-1]["key"]).glob("*/state.json"))
            return Job(begun[-1]["pid"]) if saved else None

        found: Job = self.wait_for(job)
        os.kill(found.pid, signal.SIGSTOP)
        return found

    def end(self) -> None:
        """Wait until everything is finished."""
        try:
            assert self.process.wait(timeout=900) == 0, self.said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Job:
    """The Slurm job of a training process."""

    def __init__(self, pid: int):
        self.pid = pid
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        self.environment = dict(word.split("=", 1) for word in words if "=" in word)
        self.number = self.environment["SLURM_JOB_ID"]
        self.node = self.environment["SLURMD_NODENAME"]

    def processes(self) -> list[int]:
        """All processes of the job, including Slurm's own for its steps."""
        steps, member = f"slurmstepd: [{self.number}.", f"SLURM_JOB_ID={self.number}"
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # the process has just ended
                words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                if (folder / "cmdline").read_bytes().decode().startswith(steps) or member in words:
                    found.append(int(folder.name))
        return found

    def go_on(self) -> None:
        """Let the process continue."""
        os.kill(self.pid, signal.SIGCONT)

    def at_once(self) -> None:
        """Skip the two minutes that Slurm waits after a requeue."""
        for _ in range(200):
            if "JobState=PENDING" in control("show", "job", self.number):
                break
            time.sleep(0.5)
        control("update", f"JobId={self.number}", "StartTime=now")


def own_time_limit(job: Job, cluster: Path) -> None:
    """The run's own time limit, below that of the job, makes it save and stop."""
    time.sleep(61)
    job.go_on()


def killed_at_time_limit(job: Job, cluster: Path) -> None:
    """Slurm ends the job at its time limit: SIGTERM, twice, and SIGKILL half a minute later."""
    control("update", f"JobId={job.number}", "TimeLimit=1")


def requeued(job: Job, cluster: Path) -> None:
    """An administrator, or a preemption, requeues the job."""
    control("requeue", job.number)
    job.at_once()


def node_lost(job: Job, cluster: Path) -> None:
    """A node fails: all its processes end at once, and an administrator marks it as down."""
    for pid in [int((cluster / f"slurmd-{job.node}.pid").read_text()), *job.processes()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    control("update", f"NodeName={job.node}", "State=DOWN", "Reason=test")
    job.at_once()


@pytest.mark.parametrize(
    ("disturb", "arguments", "jobs"),
    [
        (own_time_limit, ["--set-resources", "train_one_run:runtime=2"], 2),
        (killed_at_time_limit, [], 2),
        (requeued, [], 1),
        (node_lost, [], 1),
    ],
)
def test_disturbed_run_continues_to_the_same_bits(
    disturb: Callable[[Job, Path], None],
    arguments: list[str],
    jobs: int,
    cluster: Path,
    undisturbed: dict[str, bytes],
    prepared: Path,
    tmp_path: Path,
) -> None:
    """A run that is interrupted during training continues (in another or the same job), and its child follows."""
    run = OnSlurm(workspace(tmp_path / "workspace", prepared, LINEAGE), *made("one3_to_5_masked"), *arguments)
    try:
        job = run.halted("one3")
        disturb(job, cluster)
    finally:
        run.end()
    events = [event["event"] for event in run.events("one3")]  # a slow machine needs more jobs
    assert (events[0], {*events[1:-1]}, events[-1]) == (
        "trained",
        {"resumed"},
        "finished",
    )
    assert "continuing at epoch" in (run.folder / "logs/tiny/train_one/one3-seed0.log").read_text()
    assert run.said.count("rule_train_one_run/train_one_one3_0/") >= jobs
    assert bits(run.folder) == undisturbed


def test_drained_node_ends_what_it_has_and_gets_nothing_new(
    undisturbed: dict[str, bytes], prepared: Path, tmp_path: Path
) -> None:
    """A node is drained during a run: the run is finished there, and its child on the other node."""
    run = OnSlurm(workspace(tmp_path / "workspace", prepared, LINEAGE), *made("one3_to_5_masked"))
    try:
        parent = run.halted("one3")
        control("update", f"NodeName={parent.node}", "State=DRAIN", "Reason=test")
        assert "DRAIN" in control("show", "node", parent.node)
        parent.go_on()
        child = run.halted("one3_to_5_masked")
        child.go_on()
    finally:
        run.end()
    assert [event["event"] for event in run.events("one3")] == ["trained", "finished"]
    assert {parent.node, child.node} == {"one", "two"}
    assert bits(run.folder) == undisturbed


def test_jobs_on_one_node_get_a_gpu_each(prepared: Path, tmp_path: Path) -> None:
    """With two stand-in GPUs two runs work at once, each with its own GPU; the third one waits."""
    control("update", "NodeName=two", "State=DRAIN", "Reason=test")
    study = LINEAGE | {"only": ["baseline", "one1", "one3"]}
    run = OnSlurm(
        workspace(tmp_path / "workspace", prepared, study),
        *made(*study["only"]),
        *("--set-resources", "train_baseline_run:gpu=1", "train_one_run:gpu=1"),
    )
    try:
        halted: dict[str, Job] = {}

        def two_at_once() -> bool:
            for experiment in study["only"]:
                if experiment not in halted and run.events(experiment):
                    halted[experiment] = run.halted(experiment)
            return len(halted) == 2

        run.wait_for(two_at_once)
        waiting = subprocess.run(["squeue", "--noheader", "--format=%T %r"], capture_output=True, text=True).stdout
        for job in halted.values():
            job.go_on()
    finally:
        run.end()
    assert {job.node for job in halted.values()} == {"one"}
    assert {job.environment["CUDA_VISIBLE_DEVICES"] for job in halted.values()} == {"0", "1"}
    assert sorted(line.split()[0] for line in waiting.splitlines()) == ["PENDING", "RUNNING", "RUNNING"]
    assert (run.folder / "checkpoints/tiny/train_one/one3/seed0/run.json").is_file()


def test_demo_gives_the_same_bytes_as_without_slurm(tmp_path: Path) -> None:
    """Step 1 and Step 2 from nothing to the report: every result, table, claim and report, except timings."""
    local = make("demo", tmp_path / "local")
    run = OnSlurm(begin(tmp_path / "slurm"), study="demo")
    assert run.process.wait(timeout=3600) == 0, run.said
    assert promised(tmp_path / "slurm") == promised(local)
    submitted = set(re.findall(r"^Job (\d+) has been submitted", run.said, re.MULTILINE))
    said = re.findall(r"^Job (\d+): (\w+): ", run.said, re.MULTILINE)
    here = {rule for job, rule in said if job not in submitted}
    assert here == {"prepare_dataset", "tables", "claims", "report", "timing", "all"}


def promised(folder: Path) -> dict[str, bytes]:
    """Every file whose content is promised, by its path."""
    found = [path for part in ("results", "reports", "checkpoints") for path in (folder / part).rglob("*")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.is_file() and not path.name.startswith("timing.")
    }
