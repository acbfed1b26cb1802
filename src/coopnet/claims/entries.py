"""What `claims.yaml` may say, and what the study has to have for it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.study.settings import Experiment, Words

REFERENCE = re.compile(r"(?P<experiment>\w+)(?:\.(?P<model>\w+))?(?P<transfer>@transfer)?", re.ASCII)
MODELS = ("ensemble", "branch_mean", "mean_probabilities", "picked")
MARGIN = 0.5
"""Points of accuracy: the largest difference that does not count, unless a claim states another."""


class Reference(NamedTuple):
    """`experiment.model@transfer`: one of the networks inside a run, trained unless it says `@transfer`."""

    experiment: str
    model: str = "ensemble"
    stage: Literal["final", "at_transfer"] = "final"

    def __str__(self) -> str:
        """In words: `one3, branch 1`."""
        words = {"ensemble": "", "branch_mean": ", mean of branches", "mean_probabilities": ", mean of probabilities"}
        words["picked"] = ", smaller vote picked on validation"
        model = words.get(self.model, f", branch {self.model.removeprefix('branch')}")
        return f"{self.experiment}{model}{' at transfer' if self.stage == 'at_transfer' else ''}"


def _reference(text: Any) -> Any:
    match = REFERENCE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("it must be `experiment`, `experiment.model` or `experiment@transfer`")
    found = Reference(
        match["experiment"], match["model"] or "ensemble", "at_transfer" if match["transfer"] else "final"
    )
    if found.model not in MODELS and not re.fullmatch(r"branch[1-9]\d{0,3}", found.model, re.ASCII):
        raise ValueError(f"{found.model[:80]!r} is no model (known: {', '.join(MODELS)}, branch1, branch2, …)")
    if found.stage == "at_transfer" and found.model != "ensemble":
        raise ValueError("at transfer only the ensemble is kept")
    return found


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Referred = Annotated[Reference, BeforeValidator(_reference)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Comparison(_Strict):
    """A difference in accuracy, `of` minus each of `than`.

    Attributes:
        kind: `better`, `not_worse`, `nothing` or `about`; `decisions.region` says what each has to show.
        of: the network that the claim is about.
        than: what it is compared with; with several, each is a part of its own.
        each: every single network of `than` in the lineage of a replicate is a part of its own, as in "better than
            each of its parents"; otherwise their mean counts.
        target: for `about`, the least and the largest gain in points.
    """

    kind: Literal["better", "not_worse", "nothing", "about"]
    of: Referred
    than: Annotated[list[Referred], BeforeValidator(_several), Field(min_length=1)]
    each: bool = False
    target: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _check_target(self) -> "Comparison":
        if (self.kind == "about") != (self.target is not None):
            raise ValueError("`target: [least, largest]` belongs to kind `about`, and to no other")
        if self.target is not None and self.target[0] > self.target[1]:
            raise ValueError(f"target {self.target} must not fall")
        return self


class Tolerance(_Strict):
    """By how much each may rise and still be said to be kept; more than rounding at the edges of the ECE's bins.

    Attributes:
        nll: in nats.
        ece: in percentage points.
    """

    nll: Annotated[Finite, Field(gt=0)]
    ece: Annotated[Finite, Field(gt=0)]


class Kept(_Strict):
    """What a start keeps of its parent, at transfer.

    Attributes:
        kind: `predictions_kept`: no predicted class changes, so that accuracy is kept on whatever images, which is
            counted; `calibration_kept`: NLL and ECE rise by less than a tolerance, each of which is tested over seeds.
        of: the experiment, whose one parent it is compared with.
        tolerance: of `calibration_kept`.
    """

    kind: Literal["predictions_kept", "calibration_kept"]
    of: Referred
    tolerance: Tolerance | None = None

    @model_validator(mode="after")
    def _check_tolerance(self) -> "Kept":
        if (self.kind == "calibration_kept") != (self.tolerance is not None):
            raise ValueError("`tolerance: {nll: …, ece: …}` belongs to kind `calibration_kept`, and to no other")
        return self

    @property
    def than(self) -> list[Reference]:
        """Nothing but its own parent."""
        return []


class Cost(_Strict):
    """What it costs to train a network and all that it descends from.

    Attributes:
        kind: `fewer_epochs` and `less_compute_to_target`: until the mean validation accuracy over seeds reaches where
            `than` ends; `less_compute`: counted FLOPs of all training.
        of: the experiment that is said to cost less.
        than: the one it is compared with.
    """

    kind: Literal["fewer_epochs", "less_compute_to_target", "less_compute"]
    of: Referred
    than: Annotated[list[Referred], BeforeValidator(_several), Field(min_length=1, max_length=1)]


Part = Annotated[Comparison | Kept | Cost, Field(union_mode="left_to_right")]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it must not be empty")
    return text


Statement = Annotated[Words, AfterValidator(_not_blank)]


class Claim(_Strict):
    """One statement.

    Attributes:
        number: its place in the list of claims, `4a` where a claim is stated more than once.
        text: the claim, as one sentence.
        source: who claims it.
        section: id of the report's section that shows what it rests on.
        margin: δ in points of accuracy: the largest difference that does not count.
        lengths: experiments whose numbers of epochs are named beside the claim's numbers, because they differ.
        parts: it holds when all of them do.
    """

    number: Annotated[str, Field(pattern=r"^[1-9]\d*[a-z]?$")]
    text: Statement
    source: Statement
    section: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    margin: Annotated[Finite, Field(gt=0)] = MARGIN
    lengths: list[str] = []
    parts: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Stated(NamedTuple):
    """A claim by its name, with its parts checked."""

    id: str
    claim: Claim
    parts: list[Comparison | Kept | Cost]


KINDS: dict[str, type[Comparison] | type[Kept] | type[Cost]] = {
    **dict.fromkeys(("better", "not_worse", "nothing", "about"), Comparison),
    **dict.fromkeys(("predictions_kept", "calibration_kept"), Kept),
    **dict.fromkeys(("fewer_epochs", "less_compute_to_target", "less_compute"), Cost),
}


def read(path: Path, rows: Mapping[str, Experiment], own: Mapping[str, Experiment] | None = None) -> list[Stated]:
    """The claims, in their order.

    Args:
        path: `claims.yaml`.
        rows: all rows of `params.yaml`; a study may hold fewer, and then some claims are not run.
        own: the rows of a study, as it has them; what it can decide has to make sense with these.

    Raises:
        CoopNetError: a key, a kind, an experiment or a model that is not known, or two networks on different data.
    """
    stated = []
    for name, content in study.read_yaml(path).items():
        where = f"{path.name}: {name}"
        if not re.fullmatch(r"[a-z0-9_]{1,64}", str(name)):
            raise CoopNetError(
                f"{path.name}: {str(name)[:80]!r}: the name of a claim has small letters, digits and underscores"
            )
        claim = study.check(Claim, content, where)
        parts = [_part(part, f"{where}.parts.{place}") for place, part in enumerate(claim.parts)]
        for place, part in enumerate(parts):
            held = own is not None and all(one.experiment in own for one in (part.of, *part.than))
            _check_part(part, own if own is not None and held else rows, f"{where}.parts.{place}")
            _check_gain(part, claim.margin, f"{where}.parts.{place}")
        _check_names(claim.lengths, rows, f"{where}.lengths")
        stated.append(Stated(str(name), claim, parts))
    return stated


def _part(content: dict[str, Any], where: str) -> Comparison | Kept | Cost:
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        hint = study.did_you_mean(str(kind), KINDS)
        raise CoopNetError(f"{where}.kind: {kind!r} is not known{hint} (known: {', '.join(KINDS)})")
    return study.check(KINDS[kind], content, where)


def _check_gain(part: Comparison | Kept | Cost, margin: float, where: str) -> None:
    if isinstance(part, Comparison) and part.target is not None and part.target[0] <= margin:
        raise CoopNetError(
            f"{where}: a gain of {part.target[0]:g} is within the margin of {margin:g}, and is none by that; "
            "state a smaller margin"
        )


def _check_names(names: Sequence[str], experiments: Mapping[str, Experiment], where: str) -> None:
    for name in names:
        if name not in experiments:
            hint = study.did_you_mean(name, experiments)
            raise CoopNetError(f"{where}: {name[:80]!r} is not an experiment of params.yaml{hint}")


def _check_part(part: Comparison | Kept | Cost, experiments: Mapping[str, Experiment], where: str) -> None:
    _check_names([reference.experiment for reference in (part.of, *part.than)], experiments, where)
    for reference in (part.of, *part.than):
        _check_model(reference, experiments[reference.experiment], where)
        own, other = (experiments[name].data for name in (part.of.experiment, reference.experiment))
        if own.dataset != other.dataset:
            raise CoopNetError(
                f"{where}: {part.of.experiment} is tested on {own.dataset}, {reference.experiment} on {other.dataset}; "
                "compare networks on the same images"
            )
        if not isinstance(part, Comparison) and reference != Reference(reference.experiment):
            raise CoopNetError(f"{where}: {part.kind} is about {reference.experiment} as a whole; leave the rest out")
    if len({part.of, *part.than}) <= len(part.than):
        raise CoopNetError(f"{where} compares a network with itself, or names one twice")
    row = experiments[part.of.experiment]
    if isinstance(part, Kept) and (len(row.parents) != 1 or row.taught):
        raise CoopNetError(f"{where}: {part.kind} compares with the one parent, and {part.of.experiment} has not one")
    if part.kind in ("fewer_epochs", "less_compute_to_target"):
        for name in (part.of.experiment, part.than[0].experiment):
            if not experiments[name].data.validation:
                raise CoopNetError(f"{where}: {name} has no validation images to tell when the target is reached")
            if not experiments[name].training.epochs:
                raise CoopNetError(f"{where}: {name} is not trained, so it has no epochs to count")
            if len(experiments[name].parents) > 1 or experiments[name].taught:
                raise CoopNetError(f"{where}: {name} is not one network trained in stages, so its epochs do not add up")


def _check_model(reference: Reference, row: Experiment, where: str) -> None:
    branches = row.model.branches
    if reference.stage == "at_transfer" and (not row.parents or row.start.kind == "random"):
        raise CoopNetError(f"{where}: {reference.experiment} starts from nothing, so there is no network at transfer")
    if reference.model == "picked" and not (row.data.validation and branches > 1):
        raise CoopNetError(f"{where}: {reference.experiment} has no validation images, or no branches, to pick from")
    if reference.model == "mean_probabilities" and branches == 1:
        raise CoopNetError(f"{where}: {reference.experiment} has one branch; leave `.mean_probabilities` out")
    number = reference.model.removeprefix("branch")
    if number.isdigit() and int(number) > branches:
        raise CoopNetError(f"{where}: {reference.experiment} has {branches} branches, so no {reference.model}")
