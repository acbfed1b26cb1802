# The study that this workflow makes, read and checked before anything runs.
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
            f"--config {unknown[0]} is not known: only study=NAME is. Everything else is set in params.yaml "
            "or studies/NAME.yaml, which the commands of the workflow read themselves."
        )
    root = Path(workflow.basedir)
    try:
        study = studies.load(root, str(config.get("study") or studies.FULL))
        # They are needed last, but a mistake in them should be known before anything runs.
        rows = studies.rows(root)
        entries.read(root / "claims.yaml", rows, study.experiments)
        published.read(Workspace(root).published, rows)
        return study
    except CoopNetError as error:
        sys.exit(f"error: {error}")


# The `coopnet` beside this Python, also where its environment was not activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)

# Nothing that is made while the graph is built becomes garbage, and looking for it takes a tenth of that time.
gc.disable()

# DVC calls Snakemake for each of its stages, and records their outputs itself.
UNDER_DVC = "DVC_STAGE" in os.environ

STUDY = read_study()
WORKSPACE = Workspace(Path())
LOGS = f"logs/{STUDY.name}"
RUNS = {(run.phase, run.experiment, run.seed): run for run in STUDY.everything()}


def run_of(phase, wildcards):
    """The run, or the network at transfer, that a phase makes of an experiment and a seed."""
    place = phase, wildcards.experiment, int(wildcards.seed)
    if place not in RUNS:
        STUDY.run(*place[1:])  # says so, where there is no such run at all
        raise CoopNetError(
            f"{place[1]}/seed{place[2]} of study {STUDY.name} has nothing that {phase} makes"
        )
    return RUNS[place]


def of(phase, what):
    """What `what` says of the run that a job of this phase makes."""
    return lambda wildcards: what(run_of(phase, wildcards))


def made_from(run):
    """The files that a run reads."""
    return stamps.origins(WORKSPACE, STUDY, run)


def records_of(phase):
    """Pattern of what a job of this phase makes: the two records of a run.

    They are written last and hold the digests of its other files, for which the stamp speaks. They are not deleted
    beforehand, because a result is replaced in one step, and only by a better one.
    """
    folder = WORKSPACE.checkpoints(STUDY.name, phase) / "{experiment}" / "seed{seed}"
    return [update(str(folder / name)) for name in ("run.json", "metrics.json")]


def all_of(phase):
    """The records of all that a phase makes."""
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
    """The study's threads; one where the run is only evaluated anew."""
    return STUDY.threads if trains(run) else 1


def gpus_of(run):
    return int(STUDY.device == "cuda" and trains(run))


def trains(run):
    return (run.phase, run.experiment, run.seed) not in TRAINED


def time_limit(wildcards, resources):
    """How a run stops and saves before its job's time limit, to go on in the next job; nothing where there is none.

    Five minutes are for what the run's own clock does not see: the start of the job, and the end of a step.
    """
    runtime = resources.get("runtime")
    return f"--max-minutes {max(runtime - 5, runtime / 2):g}" if runtime else ""


# What Snakemake says of a job, in place of all its paths.
OF_RUN = "{rule}: {wildcards.experiment}/seed{wildcards.seed} (threads: {threads}, GPUs: {resources.gpu})"

TRAIN = (
    "coopnet train {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} {params.limit} "
    "> {log} 2>&1"
)
TRANSFER = (
    "coopnet transfer {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} "
    "> {log} 2>&1"
)

# Runs that need no training. Jobs on a cluster do not ask: they were given what they need.
TRAINED = set()
if workflow.is_main_process:
    if any(
        row.model.wrapped for row in STUDY.experiments.values()
    ):  # which takes the import of their libraries
        if subprocess.run(["coopnet", "check", STUDY.name]).returncode:
            sys.exit(1)
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
    ):  # which wants the folder of a phase that makes nothing in this study, too
        for phase in TRAINING:
            WORKSPACE.checkpoints(STUDY.name, phase).mkdir(parents=True, exist_ok=True)


def record():
    """Tell DVC what was made, unless it is DVC that asked; what it says of that is no reason to fail."""
    if not UNDER_DVC:
        subprocess.run(["coopnet", "record", STUDY.name, "--if-possible"])


def refuse_edited():
    """Fail where DVC would record parameters that not all of this was made with.

    DVC reads the parameters when a stage has ended. What the stage made before an edit was made without that edit.
    """
    if UNDER_DVC and decisive(read_study()) != decisive(STUDY):
        sys.exit(
            f"error: parameters of {STUDY.name} were edited while this was made, so DVC does not record it. "
            "What was trained is kept in the run store; run the same command again"
        )


def decisive(study):
    """Whatever decides the results of a study: the keys of its runs, and the words in its tables."""
    return [run.key for run in study.everything()], steps.tables(WORKSPACE, study).words


def report_failures():
    """Report what there is when runs failed; the next start asks for them, and then for the report, again."""
    if failures.unavailable(WORKSPACE, STUDY):
        for command in ("tables", "claims", "report", "timing"):
            if subprocess.run(["coopnet", command, STUDY.name]).returncode:
                break  # something else is missing, and it has said so


# They become words of shell commands, also where a target that somebody asks for by name says what they are.
wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    experiment=r"[a-z0-9_]+",
    seed=r"\d+",
