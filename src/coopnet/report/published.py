"""Published figures that a study is compared with, as `figures.yaml` has them: every key checked, nothing guessed."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from coopnet.files.errors import CoopNetError
from coopnet.study import check, did_you_mean, merge, read_yaml
from coopnet.study.settings import Real, Section, Whole, Words

UNSAID = "not said"

CERTAINTIES = {
    "secondary source": "handed down by readers of the work, and not read in it here",
    "log": "read from a log",
    "table": "read from the published table, or from that of a repository",
}
"""How sure we are that the source says so."""

PROTOCOL = ("dataset", "network", "epochs", "training_images", "epoch", "runs")
"""What a published figure and ours may differ in, the number of runs included."""

EPOCHS = {None: (None, "best"), "nothing": ("last",), "test": ("best",), "validation": ("best",)}
"""Which epoch it may be, by what it was chosen on."""


def _said(value: Any) -> Any:
    """`not said` as None; an empty value is a slip."""
    if value is None:
        raise ValueError(f"it is empty; write what was published, or: {UNSAID}")
    return None if value == UNSAID else value


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Said = BeforeValidator(_said)
Percent = Annotated[Real, Field(ge=0, le=100)]
NAME = "^[a-z][a-z0-9_]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]


class Network(Section):
    """The network that was measured, in the words of a row's `model`."""

    family: Literal["cifar_resnet", "resnet18"] = "cifar_resnet"
    depth: Whole = Field(ge=8)
    block: Literal["basic", "bottleneck"] = "basic"
    width: Whole = Field(16, ge=1, description="channels of the first stage")


class Gain(Section):
    """What a figure gains over another one of its source, by the figures themselves and by what is claimed."""

    over: str = Field(description="that other figure, of the same split and metric")
    claimed: Real = Field(description="in points")


class Figure(Section):
    """One published figure."""

    about: Words = Field(min_length=1, description="one line for the report")
    experiment: str | None = Field(description="the row of params.yaml that measures the same; null: there is none")
    model: Annotated[str | None, Field(pattern="^(ensemble|mean_probabilities|branch_mean|branch[1-9][0-9]*)$"), Said]
    split: Literal["test", "validation"]
    metric: Literal["top1", "top5"]
    value: Annotated[list[Percent], Field(min_length=1), BeforeValidator(_several)] = Field(
        description="as published; a list: one value per run"
    )
    unit: Literal["error %", "accuracy %"]
    spread: Percent | None = Field(None, description="published beside a single value: ±")
    dataset: Annotated[Literal["cifar10", "cifar100"] | None, Said]
    network: Annotated[Network | None, Said]
    epochs: Annotated[Whole | None, Field(ge=0), Said]
    training_images: Annotated[Whole | None, Field(ge=1), Said]
    epoch: Annotated[Literal["last", "best"] | None, Said]
    chosen_on: Annotated[Literal["nothing", "test", "validation"] | None, Said]
    runs: Annotated[Whole | None, Field(ge=1), Said]
    certainty: Literal["secondary source", "log", "table"]
    note: Words = ""
    gain: Gain | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Figure":
        if self.experiment is None and not self.note:
            raise ValueError("experiment null needs a note that says why no row measures the same")
        if len(self.value) > 1 and self.runs != len(self.value):
            raise ValueError(f"value lists {len(self.value)} runs, runs says {self.runs or UNSAID}; they have to agree")
        if len(self.value) > 1 and self.spread is not None:
            raise ValueError("spread is computed where value lists every run; remove it")
        if self.epoch not in EPOCHS[self.chosen_on]:
            raise ValueError(
                f"epoch {self.epoch or UNSAID} with chosen_on {self.chosen_on or UNSAID}: "
                "the last epoch is chosen on nothing, the best one on test or validation images"
            )
        return self

    @property
    def accuracy(self) -> list[float]:
        """Each value as an accuracy (%)."""
        return [round(100 - value, 8) if self.unit == "error %" else value for value in self.value]


class Source(Section):
    """A work with figures in it."""

    work: Words = Field(min_length=1)
    kind: Literal["paper table", "table", "repository README", "log", "not said"]
    remark: Words = Field("", description="what holds for all of its figures and has no key of its own")
    defaults: dict[str, Any] = Field({}, description="merged under every figure")
    figures: dict[Name, dict[str, Any]] = Field(min_length=1)


class Published(NamedTuple):
    """A figure and where it stands; `id` is `source.figure`."""

    id: str
    source: Source
    figure: Figure
    over: Figure | None
    """The figure that `figure.gain` names."""


def read(path: Path, experiments: Collection[str]) -> list[Published]:
    """Read and check all figures, in the order of the file.

    Args:
        path: the file.
        experiments: all rows that figures may be compared with, whether a study runs them or not.

    Raises:
        CoopNetError: anything wrong with the file, naming file, entry, key and remedy.
    """
    found = []
    for name, content in read_yaml(path).items():
        if not isinstance(name, str) or not re.fullmatch(NAME[1:-1], name):
            raise CoopNetError(f"{path.name}: {str(name)[:80]!r}: the name of a source has small letters, digits and _")
        source = check(Source, content, f"{path.name}: {name}")
        where = f"{path.name}: {name}.figures"
        figures = {
            key: check(Figure, merge(source.defaults, entry), f"{where}.{key}") for key, entry in source.figures.items()
        }
        for key, figure in figures.items():
            _check_experiment(figure, experiments, f"{where}.{key}")
            over = _gained_over(figure, figures, f"{where}.{key}")
            found.append(Published(f"{name}.{key}", source, figure, over))
    return found


def _check_experiment(figure: Figure, experiments: Collection[str], where: str) -> None:
    if figure.experiment is not None and figure.experiment not in experiments:
        hint = did_you_mean(figure.experiment, experiments) or "; name a row, or null with a note why there is none"
        raise CoopNetError(f"{where}.experiment: {figure.experiment!r} is not an experiment of params.yaml{hint}")


def _gained_over(figure: Figure, figures: Mapping[str, Figure], where: str) -> Figure | None:
    if figure.gain is None:
        return None
    name = figure.gain.over
    if name not in figures:
        raise CoopNetError(f"{where}.gain.over: {name!r} is not a figure of this source{did_you_mean(name, figures)}")
    other = figures[name]
    if (other.split, other.metric) != (figure.split, figure.metric):
        raise CoopNetError(
            f"{where}.gain.over: {name} is {other.split} {other.metric}, this figure {figure.split} {figure.metric}; "
            "they have to agree"
        )
    return other
