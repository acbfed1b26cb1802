# The study that this workflow makes, read and checked before anything runs, and what its rules share.
import gc
import os
import sys

from coopnet.files.errors import CoopNetError
from coopnet.runs import steps
from coopnet.runs.workspace import PREPARED, Workspace

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))
import handlers
import stamps
import startup

# Use the `coopnet` beside this Python, even if its environment is not activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)

# Building the graph creates no garbage, and the garbage collector would take a tenth of the time.
gc.disable()

WORKSPACE = Workspace(Path())
STUDY = startup.read_study(WORKSPACE.root, config)
LOGS = f"logs/{STUDY.name}"
RUNS = {(run.phase, run.experiment, run.seed): run for run in STUDY.everything()}

# Runs that need no training. Jobs on a cluster do not check this again.
TRAINED = set()
if workflow.is_main_process:
    TRAINED = RUNS.keys() - startup.find_due(WORKSPACE, STUDY).runs


def run_of(wildcards):
    """The run, or the network at transfer, that a phase makes for an experiment and a seed."""
    place = wildcards.phase, wildcards.experiment, int(wildcards.seed)
    if place not in RUNS:
        STUDY.run(*place[1:])  # raises if there is no such run
        raise CoopNetError(
            f"{place[1]}/seed{place[2]} of study {STUDY.name} has no result of phase {place[0]}"
        )
    return RUNS[place]


def made_from(wildcards):
    """The input files of a run."""
    return stamps.origins(WORKSPACE, STUDY, run_of(wildcards))


def records_of(phase):
    """Pattern of the outputs of a job of this phase: the two records of a run.

    They are written last and hold the digests of the run's other files, which the stamp represents. `update` keeps them
    until the job replaces them, because a result is replaced atomically, and only by a valid one.
    """
    folder = WORKSPACE.checkpoints(STUDY.name, f"{{phase,{phase}}}")
    files = [
        folder / "{experiment}" / "seed{seed}" / name
        for name in ("run.json", "metrics.json")
    ]
    return [update(str(file)) for file in files]


def all_of(phase):
    """The records of all results of a phase."""
    return [WORKSPACE.run(STUDY, run) / "metrics.json" for run in STUDY.of_phase(phase)]


def prepared(dataset):
    """The canonical arrays of a dataset."""
    return [str(WORKSPACE.prepared(dataset) / name) for name in PREPARED]


def key_of(wildcards):
    return run_of(wildcards).key


def threads_of(wildcards):
    """The study's threads for a run that is trained; one for a run that is only evaluated."""
    return STUDY.threads if trains(wildcards) else 1


def gpus_of(wildcards):
    return int(STUDY.device == "cuda" and trains(wildcards))


def trains(wildcards):
    run = run_of(wildcards)
    return (run.phase, run.experiment, run.seed) not in TRAINED


def time_limit(wildcards, resources):
    """The option that makes a run save and stop before its job's time limit, so that the next job continues it.

    Five minutes are reserved for what the run does not measure: the start of the job, and the end of a step. Without a
    time limit the option is empty.
    """
    runtime = resources.get("runtime")
    return f"--max-minutes {max(runtime - 5, runtime / 2):g}" if runtime else ""


# The line that Snakemake prints for a job, instead of all its paths.
OF_RUN = "{rule}: {wildcards.experiment}/seed{wildcards.seed} (threads: {threads}, GPUs: {resources.gpu})"


# Wildcards become words of shell commands, also if a target given on the command line sets them.
wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    experiment=r"[a-z0-9_]+",
    seed=r"\d+",
