# The study that this workflow makes. It is read and checked before anything runs.
import gc
import os
import subprocess
import sys

from coopnet.runs import failures, steps
from coopnet import study as studies
from coopnet.claims import entries
from coopnet.commands import plan
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.runs.workspace import PREPARED, Workspace
from coopnet.study.phases import TRAINING

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))
import stamps


def read_study():
    unknown = sorted(set(config) - {"study"})
    if unknown:
        sys.exit(
            f"--config {unknown[0]} is not known; the only option is study=NAME. Everything else is set in params.yaml "
            "or studies/NAME.yaml, which the commands of the workflow read themselves."
        )
    root = Path(workflow.basedir)
    try:
        study = studies.load(root, str(config.get("study") or studies.FULL))
        # These files are needed last, but a mistake in them should be reported before anything runs.
        rows = studies.rows(root)
        entries.read(root / "claims.yaml", rows, study.experiments)
        published.read(Workspace(root).published, rows)
        return study
    except CoopNetError as error:
        sys.exit(f"error: {error}")


# Use the `coopnet` beside this Python, even if its environment is not activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)

# Building the graph creates no garbage, and the garbage collector would take a tenth of the time.
gc.disable()

# DVC calls Snakemake for each of its stages and records their outputs itself.
DVC_STAGE = os.environ.get("DVC_STAGE", "")
UNDER_DVC = bool(DVC_STAGE)

STUDY = read_study()
WORKSPACE = Workspace(Path())
LOGS = f"logs/{STUDY.name}"
RUNS = {(run.phase, run.experiment, run.seed): run for run in STUDY.everything()}


def run_of(phase, wildcards):
    """The run, or the network at transfer, that a phase makes for an experiment and a seed."""
    place = phase, wildcards.experiment, int(wildcards.seed)
    if place not in RUNS:
        STUDY.run(*place[1:])  # raises if there is no such run
        raise CoopNetError(
            f"{place[1]}/seed{place[2]} of study {STUDY.name} has no result of phase {phase}"
        )
    return RUNS[place]


def of(phase, what):
    """Apply `what` to the run of a job of this phase."""
    return lambda wildcards: what(run_of(phase, wildcards))


def made_from(run):
    """The input files of a run."""
    return stamps.origins(WORKSPACE, STUDY, run)


def records_of(phase):
    """Pattern of the outputs of a job of this phase: the two records of a run.

    They are written last and hold the digests of the run's other files, which the stamp represents. `update` keeps them
    until the job replaces them, because a result is replaced atomically, and only by a valid one.
    """
    folder = WORKSPACE.checkpoints(STUDY.name, phase) / "{experiment}" / "seed{seed}"
    return [update(str(folder / name)) for name in ("run.json", "metrics.json")]


def all_of(phase):
    """The records of all results of a phase."""
    return [WORKSPACE.run(STUDY, run) / "metrics.json" for run in STUDY.of_phase(phase)]


def prepared(dataset):
    """The canonical arrays of a dataset."""
    return [str(WORKSPACE.prepared(dataset) / name) for name in PREPARED]


def log_of(phase):
    return f"{LOGS}/{phase}/{{experiment}}-seed{{seed}}.log"


def stamp_of(phase):
    return stamps.of_run(WORKSPACE, STUDY, phase, "{experiment}", "{seed}")


def key_of(run):
    return run.key


def threads_of(run):
    """The study's threads for a run that is trained; one for a run that is only evaluated."""
    return STUDY.threads if trains(run) else 1


def gpus_of(run):
    return int(STUDY.device == "cuda" and trains(run))


def trains(run):
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

TRAIN = (
    "coopnet train {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} {params.limit} "
    "> {log} 2>&1"
)
TRANSFER = (
    "coopnet transfer {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} "
    "> {log} 2>&1"
)


def refuse_edited():
    """Fail if these parameters are not those for which DVC started this stage.

    The stage depends on the files of the plan, so they are written anew: the next start then asks what was edited.
    """
    if not plan.is_written(WORKSPACE, STUDY):
        plan.write_files(WORKSPACE, STUDY)
        refuse("parameters were edited after DVC had planned it")


def refuse_replaced():
    """Fail if what lies here is not what this start has made: DVC would record it for these parameters."""
    phase = DVC_STAGE.split(":")[-1].split("@")[0]
    if not plan.is_written(WORKSPACE, STUDY):
        refuse("parameters were edited, and planned anew, while its results were made")
    if problem := stamps.first_problem(WORKSPACE, STUDY, phase):
        refuse(f"its results were replaced while they were made ({problem.text})")


def refuse(reason):
    sys.exit(
        f"error: {STUDY.name}: {reason}, so DVC does not record this stage. Trained runs are kept in the run store; "
        "run the same command again"
    )


# Runs that need no training. Jobs on a cluster do not check this again.
TRAINED = set()
if workflow.is_main_process:
    if any(
        row.model.wrapped for row in STUDY.experiments.values()
    ):  # the check imports their libraries
        if subprocess.run(["coopnet", "check", STUDY.name]).returncode:
            sys.exit(1)
    if UNDER_DVC:
        refuse_edited()
    ALIVE = stamps.clear_stale(Path(".snakemake"))
    try:
        DUE = stamps.refresh(WORKSPACE, STUDY)
    except CoopNetError as error:
        sys.exit(f"error: {error}")
    TRAINED = RUNS.keys() - DUE.runs
    if any(DUE):
        print(
            f"{STUDY.name}: {len(DUE.runs)} of {len(RUNS)} networks to make, {len(DUE.evaluations)} more to evaluate",
            file=sys.stderr,
        )
        if DUE.runs and not UNDER_DVC:
            print(plan.short(WORKSPACE, STUDY), file=sys.stderr)
    if (
        UNDER_DVC
    ):  # DVC requires the folder of each phase, even if the phase makes nothing in this study
        for phase in TRAINING:
            WORKSPACE.checkpoints(STUDY.name, phase).mkdir(parents=True, exist_ok=True)


def record():
    """Record the results in DVC, unless DVC started this process. A failure to record does not fail the workflow."""
    if not UNDER_DVC:
        subprocess.run(["coopnet", "record", STUDY.name, "--if-possible"])


def say_next():
    """Print the next commands at the end."""
    if not UNDER_DVC:
        name = STUDY.name
        print(
            f"next: `coopnet runs {name}` lists its runs; after the report is made, `coopnet answer {name}` prints its findings",
            file=sys.stderr,
        )


def report_failures():
    """Make the report without failed runs; the next start requests these runs again, and then the report."""
    if failures.unavailable(WORKSPACE, STUDY):
        for command in ("tables", "claims", "report", "timing"):
            if subprocess.run(["coopnet", command, STUDY.name]).returncode:
                break  # another input is missing, and the command has reported it


# Wildcards become words of shell commands, also if a target given on the command line sets them.
wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    experiment=r"[a-z0-9_]+",
    seed=r"\d+",
