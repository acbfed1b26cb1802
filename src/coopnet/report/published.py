"""Published figures for comparison, read from `figures.yaml`; every key is checked."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from coopnet.claims.entries import several
from coopnet.files.errors import CoopNetError
from coopnet.study import check, did_you_mean, merge, read_yaml
from coopnet.study.settings import NAME, Name, Real, Section, Whole, Words

UNSAID = "not said"

CERTAINTIES = {
    "secondary source": "quoted by others; we have not checked it in the original",
    "log": "read from a log",
    "table": "read from a published table or a repository's table",
}
"""How we know the figure."""

PROTOCOL = ("dataset", "network", "epochs", "training_images", "epoch", "runs")
"""The properties in which a published measurement and ours may differ."""

EPOCHS = {None: (None, "best"), "nothing": ("last",), "test": ("best",), "validation": ("best",)}
"""The values of `epoch` that each value of `chosen_on` allows."""


def _known(value: Any) -> Any:
    """`not said` as None; an empty value is an error."""
    if value is None:
        raise ValueError(f"it is empty; write what was published, or: {UNSAID}")
    return None if value == UNSAID else value


MaybeUnknown = BeforeValidator(_known)
Percent = Annotated[Real, Field(ge=0, le=100)]


class Network(Section):
    """The measured network, with the keys of a row's `model`."""

    family: Literal["cifar_resnet", "resnet18"] = "cifar_resnet"
    depth: Whole = Field(ge=8)
    block: Literal["basic", "bottleneck"] = "basic"
    width: Whole = Field(16, ge=1, description="channels of the first stage")


class Gain(Section):
    """The gain of a figure over another figure of the same source, and the gain that the source claims."""

    over: str = Field(description="the other figure; it has the same split and metric")
    claimed: Real = Field(description="in points")


class Figure(Section):
    """One published figure."""

    about: Words = Field(min_length=1, description="one line for the report")
    experiment: str | None = Field(description="the row of params.yaml that measures the same; null: there is none")
    model: Annotated[
        str | None, Field(pattern="^(ensemble|mean_probabilities|branch_mean|branch[1-9][0-9]*)$"), MaybeUnknown
    ]
    split: Literal["test", "validation"]
    metric: Literal["top1", "top5"]
    value: Annotated[list[Percent], Field(min_length=1), BeforeValidator(several)] = Field(
        description="as published; a list: one value per run"
    )
    unit: Literal["error %", "accuracy %"]
    spread: Percent | None = Field(None, description="published beside a single value: ±")
    dataset: Annotated[Literal["cifar10", "cifar100"] | None, MaybeUnknown]
    network: Annotated[Network | None, MaybeUnknown]
    epochs: Annotated[Whole | None, Field(ge=0), MaybeUnknown]
    training_images: Annotated[Whole | None, Field(ge=1), MaybeUnknown]
    epoch: Annotated[Literal["last", "best"] | None, MaybeUnknown]
    chosen_on: Annotated[Literal["nothing", "test", "validation"] | None, MaybeUnknown]
    runs: Annotated[Whole | None, Field(ge=1), MaybeUnknown]
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
    """A work with published figures."""

    work: Words = Field(min_length=1)
    kind: Literal["paper table", "table", "repository README", "log", "not said"]
    remark: Words = Field("", description="a note on all figures of the work that has no key of its own")
    defaults: dict[str, Any] = Field({}, description="merged under every figure")
    figures: dict[Name, dict[str, Any]] = Field(min_length=1)


class Published(NamedTuple):
    """A figure and its source; `id` is `source.figure`."""

    id: str
    source: Source
    figure: Figure
    over: Figure | None
    """The figure that `figure.gain` names."""


def read(path: Path, experiments: Collection[str]) -> list[Published]:
    """Read and check all figures, in the order of the file.

    Args:
        path: the file.
        experiments: all rows of `params.yaml`, whether a study runs them or not.

    Raises:
        CoopNetError: the file has an error; the message names file, entry, key and remedy.
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
