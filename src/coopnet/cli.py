"""The command line. Each command imports what it needs only when it runs, because importing torch takes seconds."""

import io
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from coopnet import __version__
from coopnet.files.errors import CoopNetError, RecordingFailed
from coopnet.runs.workspace import Workspace
from coopnet.study import checked_name

LONGEST = 2_000  # characters of an error message

STUDY_LIBRARIES = frozenset(
    ("fontTools", "jinja2", "matplotlib", "pandas", "pyarrow", "scipy", "seaborn", "sklearn", "torchvision", "typst")
)
"""Libraries of the extra `study`. Those of other extras are asked for by name where they are imported."""

A_RUN, A_STUDY, RECORDING, NETWORKS = "A run", "A study", "Recording in DVC", "Any network"
"""Groups of commands in `coopnet --help`."""

app = typer.Typer(
    name="coopnet",
    help="Cooperative networks for image classification, as one reproducible study.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyName = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="full (params.yaml), or the name of an overlay", callback=checked_name),
]
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="a row of the study")]
Seed = Annotated[int, typer.Argument(metavar="SEED")]


def main() -> None:
    """Run the command line. Exit with 0 on success, and with 1 and one line on stderr after an error of the user."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("coopnet").setLevel(logging.INFO)  # libraries log warnings only
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack letters; stderr escapes them by itself
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except CoopNetError as error:
        print(f"coopnet: error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in STUDY_LIBRARIES:
            raise  # a bug
        remedy = "install it with pip install '.[study]' in a clone"
        print(f"coopnet: error: this needs {error.name}; {remedy}", file=sys.stderr)
        sys.exit(1)


def _one_line(text: str) -> str:
    """A message made safe for a terminal: names from a foreign file may hold any character."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _workspace() -> Workspace:
    return Workspace(Path())


def _then(words: str) -> None:
    """Log the next command at the end of a command."""
    logging.getLogger(__name__).info("next: %s", words)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="and exit")] = False,
) -> None:
    pass


@app.command(rich_help_panel=A_RUN)
def prepare(
    dataset: Annotated[
        str, typer.Argument(help="cifar10, cifar100, svhn, digits, digits16, or a dataset of params.yaml")
    ],
    source: Annotated[str | None, typer.Option(help="torchvision, matlab, parquet, digits or folder")] = None,
    root: Annotated[Path | None, typer.Option(help="folder with the download, the shards or the images")] = None,
    out: Annotated[Path | None, typer.Option(help="the folder to write; default: data/prepared/DATASET")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="how many decode images of your own at once; default: one per core")
    ] = None,
) -> None:
    """Convert a dataset from any source to its canonical form, and check it against its pinned digest."""
    from coopnet.commands import prepare as command

    command.prepare(_workspace(), dataset, source, root, out, processes)
    _then("`coopnet plan STUDY` shows the cost of a study, `snakemake --cores N --config study=STUDY` makes it")


@app.command(rich_help_panel=A_STUDY)
def check(study: StudyName) -> None:
    """Check that the networks of all rows can be built and merged, and claims.yaml and figures.yaml; train nothing."""
    from coopnet.commands import check as command

    command.check(_workspace(), study)
    _then(f"`coopnet plan {study}` shows its cost")


@app.command(rich_help_panel=A_STUDY)
def plan(
    study: StudyName = "full",
    measure: Annotated[bool, typer.Option("--measure", help="first measure a few steps on this machine")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="only write each phase's run keys, as DVC's stages do")
    ] = False,
) -> None:
    """Show the cost of a study by phase: networks, FLOPs, hours, disk, and the finished part. Nothing is run."""
    from coopnet.commands import plan as command

    if write:
        command.write(_workspace(), study)
    else:
        command.show(_workspace(), study, measure=measure)


@app.command(rich_help_panel=A_RUN)
def train(
    study: StudyName,
    experiment: ExperimentName,
    seed: Seed,
    key: Annotated[str | None, typer.Option(help="refuse to train a run with any other key")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="save and stop after this time (exit code 75)")
    ] = None,
    evaluated: Annotated[bool, typer.Option("--evaluate", help="then compute its metrics, like `evaluate`")] = False,
) -> None:
    """Train one run. An interrupted run continues, and a finished one is copied from the store."""
    from coopnet.commands import train as command
    from coopnet.runs import lifecycle

    began = time.monotonic()
    try:
        code = command.train(_workspace(), study, experiment, seed, key, max_minutes)
    except RecordingFailed as failed:
        options = ([] if key is None else ["--key", key]) + (["--evaluate"] if evaluated else [])
        left = None if max_minutes is None else max_minutes - (time.monotonic() - began) / 60
        lifecycle.restart(failed, ["train", study, experiment, str(seed), *options], left)
    if evaluated and not code:  # a separate process would double the start-up time
        evaluate(study, experiment, seed, at_transfer=False)
    elif not code:
        _then(f"`coopnet evaluate {study} {experiment} {seed}` computes its metrics")
    raise typer.Exit(code)


@app.command(rich_help_panel=A_RUN)
def transfer(
    study: StudyName,
    experiment: ExperimentName,
    seed: Seed,
    key: Annotated[str | None, typer.Option(help="refuse to make a network with any other key")] = None,
    evaluated: Annotated[bool, typer.Option("--evaluate", help="then compute its metrics, like `evaluate`")] = False,
) -> None:
    """Build the initial network of a run by growing, expanding, merging or combining its parents."""
    from coopnet.commands import transfer as command

    made = command.transfer(_workspace(), study, experiment, seed, key)
    if evaluated:
        evaluate(study, experiment, seed, at_transfer=made.at_transfer)
    elif made.at_transfer:
        _then(f"`coopnet train {study} {experiment} {seed}` trains it")


@app.command(rich_help_panel=A_RUN)
def evaluate(
    study: StudyName,
    experiment: ExperimentName,
    seed: Seed,
    at_transfer: Annotated[bool, typer.Option("--at-transfer", help="for the network before its training")] = False,
) -> None:
    """Compute a run's metrics and votes from its saved logits."""
    from coopnet.commands import evaluate as command

    folder = command.evaluate(_workspace(), study, experiment, seed, at_transfer=at_transfer)
    _then(f"{folder / 'metrics.json'} has its metrics; `coopnet runs {study}` shows what is still missing")


@app.command(rich_help_panel=A_STUDY)
def tables(
    study: StudyName,
    keep: Annotated[
        bool, typer.Option("--keep", help="runs that are not here stay in the tables as they were gathered before")
    ] = False,
) -> None:
    """Gather the results of all runs of a study into its tables."""
    from coopnet.commands import report as command

    command.tables(_workspace(), study, keep=keep)
    _then(f"{_workspace().tables(study)} has the tables; `coopnet claims {study}` decides the claims")


@app.command(rich_help_panel=A_STUDY)
def claims(study: StudyName) -> None:
    """Decide every claim of claims.yaml from the outcomes, histories and counted FLOPs of a study."""
    from coopnet.commands import claims as command

    command.claims(_workspace(), study)
    _then(f"{_workspace().claims(study)} has the ledger; `coopnet report {study}` makes the report")


@app.command(rich_help_panel=A_STUDY)
def report(study: StudyName) -> None:
    """Make the HTML and PDF report of a study from its tables and its ledger."""
    from coopnet.commands import report as command

    command.report(_workspace(), study)
    _then(f"`coopnet answer {study}` prints the findings and the paths of the pages")


@app.command(rich_help_panel=A_STUDY)
def answer(study: StudyName = "full") -> None:
    """Print the findings of a study's report, and its path."""
    from coopnet.commands import answer as command

    command.answer(_workspace(), study)


@app.command(rich_help_panel=A_STUDY)
def timing(
    study: StudyName,
    latency: Annotated[
        bool, typer.Option("--latency", help="first measure each network's latency on this machine")
    ] = False,
) -> None:
    """Make the timing page of a study. Timings differ each time, so they are separate from the report."""
    from coopnet.commands import report as command

    if latency:
        from coopnet.commands import latency as clock

        clock.measure(_workspace(), study)
    command.timing(_workspace(), study)
    _then(f"open {_workspace().report(study) / 'timing.html'}")


@app.command(name="log", rich_help_panel=A_STUDY)
def log_study(
    study: StudyName,
    to: Annotated[str, typer.Option("--to", help="tensorboard, trackio or mlflow")],
    place: Annotated[
        str | None,
        typer.Option(help="a folder for tensorboard (default: logs/tensorboard/STUDY); a tracking URI for mlflow"),
    ] = None,
) -> None:
    """Send histories and scores of a study to an experiment tracker, from its tables; nothing is trained."""
    from coopnet.commands import report as command

    command.log_study(_workspace(), study, to, place)


@app.command(name="import", rich_help_panel=A_RUN)
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="a .pth.tar file of the published implementation")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    layout: Annotated[str, typer.Option(help="layout of the checkpoint: lan2018")] = "lan2018",
) -> None:
    """Convert a published checkpoint, so that a row of params.yaml can start from it."""
    from coopnet.commands import import_checkpoint as command

    command.import_checkpoint(checkpoint, layout, out)
    _then(f"a row of params.yaml with `start: {{kind: imported, path: {out}}}` starts from it")


@app.command(rich_help_panel=RECORDING)
def record(
    study: StudyName,
    if_possible: Annotated[
        bool, typer.Option("--if-possible", help="do nothing where DVC does not know the study")
    ] = False,
) -> None:
    """Record the results of a study in DVC; results that do not match the current parameters are refused."""
    from coopnet.commands import record as command
    from coopnet.runs import dvc

    if if_possible:
        try:
            dvc.check_repository(_workspace().root, study)
        except dvc.Unknown as error:
            logging.getLogger(__name__).info("not recorded: %s", error)
            return
    command.record(_workspace(), study)
    _then("commit the lock that DVC wrote; `dvc push` copies what it recorded to its remote")


# Networks outside of a study ----------------------------------------------------------------------------------------

Network = Annotated[
    str, typer.Argument(metavar="NETWORK", help="a run (STUDY/EXPERIMENT/seedN), or a folder with a network")
]
NetworksToJoin = Annotated[list[str], typer.Argument(metavar="NETWORK...", help="two or more, as for `grow`")]
NewFolder = Annotated[Path, typer.Option(help="the folder to write; it must be new or empty")]
Images = Annotated[
    str | None, typer.Option("--data", help="a prepared dataset; default: its training dataset, if prepared here")
]
OneBranch = Annotated[int | None, typer.Option("--branch", help="one branch, counted from 1")]
SomeBranches = Annotated[str | None, typer.Option("--branches", help="some branches with their gate, e.g. 1,3")]
FreshSeed = Annotated[int, typer.Option(help="seed of new weights and noise")]


@app.command(rich_help_panel=NETWORKS)
def grow(
    network: Network,
    branches: Annotated[int, typer.Option(help="number of branches of the new network")],
    out: NewFolder,
    how: Annotated[str, typer.Option(help="split, masked, zero_output or zero_pad")] = "split",
    donors: Annotated[str | None, typer.Option(help="for split: the branches to copy, e.g. 1,1")] = None,
    noise: Annotated[
        float, typer.Option(min=0, help="for split: σ, in units of each tensor's standard deviation")
    ] = 0.0,
    seed: FreshSeed = 0,
    data: Images = None,
) -> None:
    """Add branches to a trained network, with a receipt that says what is exact and what changed."""
    from coopnet.commands import grow_and_merge as command
    from coopnet.commands.export import numbers

    chosen = None if donors is None else numbers(donors, "--donors")
    command.grow(
        _workspace(), network, out, branches=branches, how=how, donors=chosen, noise=noise, seed=seed, data=data
    )


@app.command(rich_help_panel=NETWORKS)
def merge(
    networks: NetworksToJoin,
    out: NewFolder,
    how: Annotated[str, typer.Option(help="source of the trunk: refit, first, mean or matched")] = "refit",
    reestimate: Annotated[bool, typer.Option("--reestimate", help="measure BatchNorm statistics again")] = False,
    images: Annotated[int, typer.Option(min=2, help="training images for statistics and regressions")] = 5000,
    seed: FreshSeed = 0,
    data: Images = None,
) -> None:
    """Put the branches of one-branch networks on one shared trunk, with a receipt."""
    from coopnet.commands import grow_and_merge as command

    command.merge(_workspace(), networks, out, how=how, reestimate=reestimate, count=images, seed=seed, data=data)


@app.command(rich_help_panel=NETWORKS)
def combine(
    networks: NetworksToJoin,
    out: NewFolder,
    gate: Annotated[str, typer.Option(help="learned, or mean: their plain ensemble")] = "learned",
    seed: FreshSeed = 0,
    data: Images = None,
) -> None:
    """Join one-branch networks under one gate, each on its own trunk, with a receipt."""
    from coopnet.commands import grow_and_merge as command

    command.combine(_workspace(), networks, out, gate=gate, seed=seed, data=data)


@app.command(rich_help_panel=NETWORKS)
def export(
    network: Network,
    out: NewFolder,
    branch: OneBranch = None,
    branches: SomeBranches = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="all branches with their gate")] = False,
    form: Annotated[str, typer.Option("--format", help="onnx, pt2 or safetensors")] = "onnx",
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="include normalisation in the graph, for uint8 images")
    ] = False,
    data: Images = None,
) -> None:
    """Export one branch, some, or the ensemble with a model card, after a comparison of its outputs."""
    from coopnet.commands import export as command

    chosen = command.chosen(branch, branches, ensemble)
    command.export(
        _workspace(), network, out, branches=chosen, form=form, with_preprocessing=with_preprocessing, data=data
    )


@app.command(rich_help_panel=NETWORKS)
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a run, a folder with a network, or an export")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="image files, or folders of them")],
    branch: OneBranch = None,
    top: Annotated[int, typer.Option(min=1, help="number of classes to show")] = 5,
    as_csv: Annotated[bool, typer.Option("--csv", help="print a CSV table")] = False,
) -> None:
    """Classify images. An unreadable image is reported, and the others are classified."""
    from coopnet.commands import predict as command

    command.show(model, images, None if branch is None else [branch], top, as_csv=as_csv)


@app.command(rich_help_panel=NETWORKS)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="a run, a folder with a network, or an export")],
    b: Annotated[str, typer.Argument(metavar="B", help="another one")],
    data: Annotated[str, typer.Option("--data", help="a prepared dataset")],
    branch: OneBranch = None,
) -> None:
    """Compare two models on the same test images: accuracy, agreement, calibration, latency."""
    from coopnet.commands import compare as command

    command.compare(_workspace(), a, b, data, None if branch is None else [branch])


class _OrFirst(TyperGroup):
    """A command group whose first command is the default: `coopnet runs mini`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


runs = typer.Typer(cls=_OrFirst)
app.add_typer(
    runs,
    name="runs",
    help="List the runs of a study (`coopnet runs STUDY`), or remove unused runs from the store.",
    rich_help_panel=A_RUN,
)


@runs.command("list")
def list_runs(
    study: StudyName = "full",
    watch: Annotated[
        bool, typer.Option("--watch", help="follow running ones: epoch, images/s, accuracy, time left")
    ] = False,
) -> None:
    """List the runs of a study: state, distinguishing settings, key (whole in a pipe), date and machine of each."""
    if watch:
        from coopnet.commands import watch as live

        live.watch(_workspace(), study)
        return
    from coopnet.commands import runs as command

    command.show(_workspace(), study)
    _then(f"`coopnet runs {study} --watch` follows them, `coopnet plan {study}` says what is left")


@runs.command("gc")
def collect_garbage(yes: Annotated[bool, typer.Option("--yes", help="remove them")] = False) -> None:
    """List what no study and no result here refers to in the run store; with --yes, remove it."""
    from coopnet.commands import runs as command

    command.collect_garbage(_workspace(), remove=yes)


bench = typer.Typer(cls=_OrFirst)
app.add_typer(
    bench, name="bench", help="Compare the training loop with a plain one (`coopnet bench`).", rich_help_panel=A_STUDY
)

Precision = Literal["fp32", "bf16"]
DeviceKind = Annotated[str | None, typer.Option("--device", help="cpu or cuda", metavar="KIND")]


@bench.command("run")
def run_benchmark(
    device: DeviceKind = None,
    images: Annotated[int | None, typer.Option(min=1, help="training images per repetition")] = None,
    test_images: Annotated[int | None, typer.Option(min=1, help="test images per repetition")] = None,
    repetitions: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Compare speed, memory and time per operation; writes results/bench/cpu.json or gpu.json."""
    from coopnet.commands import bench as command

    command.run(_workspace(), device, images, test_images, repetitions)


@bench.command("curves")
def compare_curves(
    study: Annotated[str, typer.Argument(metavar="[STUDY]")] = "mini",
    experiment: Annotated[str, typer.Argument(metavar="[EXPERIMENT]")] = "one3",
    device: DeviceKind = None,
    precision: Annotated[Precision | None, typer.Option(help="also train our loop here, in this precision")] = None,
) -> None:
    """Train the plain loop with the settings of an experiment, and compare its curves with the existing results."""
    from coopnet.commands import bench as command

    command.curves(_workspace(), study, experiment, device, precision)


@bench.command("show")
def show_benchmark() -> None:
    """Print the last measurement as Markdown."""
    from coopnet.commands import bench as command

    command.show(_workspace())
