# The study that this workflow makes, read and checked before anything runs.
import gc
import os
import subprocess
import sys

from coopnet.runs import failures, locks, stamps, steps
from coopnet import study as studies
from coopnet.claims import entries
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.runs.workspace import PREPARED, Workspace


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

# Of the plan and the graph of jobs, which are made next, nothing is garbage; to look for it takes a tenth of that time.
gc.disable()

STUDY = read_study()
WORKSPACE = Workspace(Path())
LOGS = f"logs/{STUDY.name}"


def run_of(wildcards):
    """The planned run that a rule's wildcards name."""
    return STUDY.run(wildcards.experiment, int(wildcards.seed))


def trains(wildcards):
    """Whether that run is trained, and not only evaluated anew."""
    return (wildcards.experiment, int(wildcards.seed)) not in TRAINED


def time_limit(wildcards, resources):
    """How a run stops and saves before its job's time limit, to go on in the next job; nothing where there is none.

    Five minutes are for what the run's own clock does not see: the start of the job, and the end of a step.
    """
    runtime = resources.get("runtime")
    return f"--max-minutes {max(runtime - 5, runtime / 2):g}" if runtime else ""


def experiments_on(dataset):
    """A pattern of the experiments on a dataset; of a study on one alone it need not list them.

    Snakemake writes it into the path of every file and searches it once per job: with thousands of names in it, that
    took longer than all else.
    """
    rows = STUDY.experiments.items()
    if STUDY.datasets() == [dataset]:
        return "[a-z0-9_]+"
    return "|".join(name for name, row in rows if row.data.dataset == dataset)


def prepared(dataset):
    return [str(WORKSPACE.prepared(dataset) / name) for name in PREPARED]


# Runs that need no training. Jobs on a cluster do not ask: they were given what they need.
TRAINED = set()
if workflow.is_main_process:
    if any(row.model.wrapped for row in STUDY.experiments.values()):  # which takes the import of their libraries
        if subprocess.run(["coopnet", "check", STUDY.name]).returncode:
            sys.exit(1)
    ALIVE = locks.clear_stale(Path(".snakemake"))
    try:
        DUE = stamps.refresh(WORKSPACE, STUDY)
    except CoopNetError as error:
        sys.exit(f"error: {error}")
    TRAINED = STUDY.runs.keys() - DUE.runs
    if any(DUE):
        print(
            f"{STUDY.name}: {len(DUE.runs)} of {len(STUDY.runs)} runs to make, {len(DUE.evaluations)} more to evaluate",
            file=sys.stderr,
        )


def record():
    """Tell DVC what was made; what it says of that is for the user, and no reason to fail."""
    subprocess.run(["coopnet", "record", STUDY.name, "--if-possible"])


def report_failures():
    """Report what there is when runs failed; the next start asks for them, and then for the report, again."""
    if failures.lost(WORKSPACE, STUDY):
        for command in ("tables", "claims", "report", "timing"):
            if subprocess.run(["coopnet", command, STUDY.name]).returncode:
                break  # something else is missing, and it has said so


# They become words of shell commands, also where a target that somebody asks for by name says what they are.
wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    experiment=r"[a-z0-9_]+",
    seed=r"\d+",
