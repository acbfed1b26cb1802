"""The command line. Each command imports what it needs when it runs: torch alone takes seconds."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from coopnet import __version__
from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace
from coopnet.study import checked_name

LONGEST = 2_000  # letters of an error message

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
    """Run the command line: 0 when all went well, 1 with one line on stderr when the user can mend it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except CoopNetError as error:
        print(f"coopnet: error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(1)


def _one_line(text: str) -> str:
    """What a message says, safe for a terminal: names out of a foreign file may hold anything."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _workspace() -> Workspace:
    return Workspace(Path())


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="and exit")] = False,
) -> None:
    pass


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="cifar10, cifar100, svhn, digits, or one of params.yaml")],
    source: Annotated[str | None, typer.Option(help="torchvision, matlab, parquet, digits or folder")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the download, the shards or the images")] = None,
    out: Annotated[Path | None, typer.Option(help="where to write; default: data/prepared/DATASET")] = None,
) -> None:
    """Bring a dataset into its canonical form, whatever its source, and check it against its pinned digest."""
    from coopnet.commands import prepare as command

    command.prepare(_workspace(), dataset, source, root, out)


@app.command()
def check(study: StudyName) -> None:
    """See whether the networks of all rows can be built for their images; nothing is trained."""
    from coopnet.commands import check as command

    command.check(_workspace(), study)


@app.command()
def train(
    study: StudyName,
    experiment: ExperimentName,
    seed: Seed,
    key: Annotated[str | None, typer.Option(help="refuse to train a run of any other key")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="save and stop (exit code 75) after this")] = None,
    evaluated: Annotated[bool, typer.Option("--evaluate", help="then compute its metrics, as `evaluate` does")] = False,
) -> None:
    """Make one run; the same command continues an interrupted one, and takes a finished one from the store."""
    from coopnet.commands import train as command

    code = command.train(_workspace(), study, experiment, seed, key, max_minutes)
    if evaluated and not code:  # in a process of its own it would take twice as long to start
        evaluate(study, experiment, seed)
    raise typer.Exit(code)


@app.command()
def evaluate(study: StudyName, experiment: ExperimentName, seed: Seed) -> None:
    """Compute a run's metrics and votes from its saved logits."""
    from coopnet.commands import evaluate as command

    command.evaluate(_workspace(), study, experiment, seed)


@app.command()
def tables(study: StudyName) -> None:
    """Gather the results of all runs of a study into its tables."""
    from coopnet.commands import report as command

    command.tables(_workspace(), study)


@app.command()
def claims(study: StudyName) -> None:
    """Decide every claim of claims.yaml from the outcomes, histories and counted FLOPs of a study."""
    from coopnet.commands import claims as command

    command.claims(_workspace(), study)


@app.command()
def report(study: StudyName) -> None:
    """Make the HTML and PDF report of a study from its tables and its ledger alone."""
    from coopnet.commands import report as command

    command.report(_workspace(), study)


@app.command()
def timing(study: StudyName) -> None:
    """Make the page of timings of a study, which is never the same twice and stands apart from its report."""
    from coopnet.commands import report as command

    command.timing(_workspace(), study)


@app.command(name="import")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="a .pth.tar of the published implementation")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    layout: Annotated[str, typer.Option(help="whose layout the checkpoint has: lan2018")] = "lan2018",
) -> None:
    """Bring in a published checkpoint, so that a row of params.yaml can start from it."""
    from coopnet.commands import import_checkpoint as command

    command.import_checkpoint(checkpoint, layout, out)


@app.command()
def stages(
    check: Annotated[bool, typer.Option("--check", help="write nothing, fail if a file is out of date")] = False,
) -> None:
    """Write the stages that DVC reads, from params.yaml and the studies; needed after experiments or seeds changed."""
    from coopnet.commands import stages as command

    command.write(_workspace(), check=check)


@app.command()
def source() -> None:
    """Write fingerprints of the source that decides results, for DVC: a comment changes none of them."""
    from coopnet.commands import stages as command

    command.source(_workspace())


@app.command()
def record(
    study: StudyName,
    if_possible: Annotated[bool, typer.Option("--if-possible", help="outside a DVC repository do nothing")] = False,
) -> None:
    """Record in DVC what was made here of a study; refuses what was made from other parameters than it has now."""
    from coopnet.commands import record as command

    if if_possible:
        try:
            command.check_repository(_workspace())
        except CoopNetError as error:
            logging.getLogger(__name__).info("not recorded: %s", error)
            return
    command.record(_workspace(), study)


@app.command()
def restore(study: StudyName) -> None:
    """Fetch all that DVC recorded of a study from its remote, so that neither engine has anything to do."""
    from coopnet.commands import record as command

    command.restore(_workspace(), study)


class _OrFirst(TyperGroup):
    """Commands of which the first is meant where none is named: `coopnet runs mini`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


runs = typer.Typer(cls=_OrFirst)
app.add_typer(runs, name="runs", help="List the runs of a study (`coopnet runs STUDY`), or clear the store of others.")


@runs.command("list")
def list_runs(study: StudyName = "full") -> None:
    """List the runs of a study: how far each is, what is particular to it, its key, when and on what it was made."""
    from coopnet.commands import runs as command

    command.show(_workspace(), study)


@runs.command("gc")
def collect_garbage(yes: Annotated[bool, typer.Option("--yes", help="remove them")] = False) -> None:
    """Say what in the run store no study and no result here refers to; with --yes, remove it."""
    from coopnet.commands import runs as command

    command.collect_garbage(_workspace(), remove=yes)


bench = typer.Typer(cls=_OrFirst)
app.add_typer(bench, name="bench", help="Measure the training loop beside a plain one (`coopnet bench`), or compare.")

Precision = Literal["fp32", "bf16"]
DeviceKind = Annotated[str | None, typer.Option("--device", help="cpu or cuda", metavar="KIND")]


@bench.command("run")
def run_benchmark(
    device: DeviceKind = None,
    images: Annotated[int | None, typer.Option(min=1, help="training images of a repetition")] = None,
    test_images: Annotated[int | None, typer.Option(min=1, help="test images of a repetition")] = None,
    repetitions: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Measure speed, memory and where the time goes, side by side; writes results/bench/cpu.json or gpu.json."""
    from coopnet.commands import bench as command

    command.run(_workspace(), device, images, test_images, repetitions)


@bench.command("curves")
def compare_curves(
    study: Annotated[str, typer.Argument(metavar="[STUDY]")] = "mini",
    experiment: Annotated[str, typer.Argument(metavar="[EXPERIMENT]")] = "one3",
    device: DeviceKind = None,
    precision: Annotated[Precision | None, typer.Option(help="train ours here too, in this one")] = None,
) -> None:
    """Train the plain loop on the settings of an experiment and compare its curves with the results that lie here."""
    from coopnet.commands import bench as command

    command.curves(_workspace(), study, experiment, device, precision)


@bench.command("show")
def show_benchmark() -> None:
    """Print what was measured last as Markdown."""
    from coopnet.commands import bench as command

    command.show(_workspace())
