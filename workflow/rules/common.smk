# The study that this workflow makes, read and checked before anything runs.
import os
import sys

from coopnet import stamps, study as studies
from coopnet.claims import entries
from coopnet.errors import CoopNetError
from coopnet.reporting import published
from coopnet.workspace import (
    CHECKPOINT,
    EVALUATED,
    PREPARED,
    REPORT,
    RESULTS,
    TABLES,
    Workspace,
)


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

STUDY = read_study()
WORKSPACE = Workspace(Path())
LOGS = f"logs/{STUDY.name}"


def run_of(wildcards):
    """The planned run that a rule's wildcards name."""
    return STUDY.run(wildcards.experiment, int(wildcards.seed))


def results_of(run, *names):
    return [str(WORKSPACE.run(STUDY, run) / name) for name in names]


def checkpoint_of(run):
    return [str(WORKSPACE.checkpoint(STUDY, run) / name) for name in CHECKPOINT]


def prepared(dataset):
    return [str(WORKSPACE.prepared(dataset) / name) for name in PREPARED]


def origins_of(wildcards):
    """What a run starts from: its parents' checkpoints, or an imported one."""
    run = run_of(wildcards)
    origins = [name for parent in run.parents for name in checkpoint_of(parent)]
    if run.row.start.kind == "imported":
        origins += [str(Path(run.row.start.path) / name) for name in CHECKPOINT]
    return origins


STAMPS = Path(".stamps") / STUDY.name
PACKAGE = Path(studies.__file__).parent


def stamp_runs():
    """Date each run's stamp by what its own record says, whichever engine made it."""
    for run in STUDY.runs.values():
        record = WORKSPACE.run(STUDY, run) / "run.json"
        stamps.mark_run(STAMPS / run.experiment / f"seed{run.seed}", run.key, record)


stamp_runs()
stamps.mark(
    STAMPS / "words",
    stamps.digest_of(
        [STUDY.title, STUDY.description, STUDY.device]
        + [
            [name, row.model_dump(mode="json")]
            for name, row in STUDY.experiments.items()
        ]
    ),
)
stamps.mark(STAMPS / "evaluation", stamps.source_of(PACKAGE / "evaluation"))
stamps.mark(STAMPS / "claims", stamps.source_of(PACKAGE / "claims"))
# The tables count what networks cost.
stamps.mark(
    STAMPS / "reporting",
    stamps.source_of(PACKAGE / "reporting", PACKAGE / "networks"),
)


wildcard_constraints:
    seed=r"\d+",
