"""The entries of `claims.yaml`: their form, and their check against the study's experiments."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.study.settings import GROWING, TRANSFERS, Experiment, Words

REFERENCE = re.compile(r"(?P<experiment>\w+)(?:\.(?P<model>\w+))?(?P<transfer>@transfer)?", re.ASCII)
Compared = Literal["better", "not_worse", "nothing", "about"]
Keeps = Literal["predictions_kept", "calibration_kept"]
Costs = Literal["fewer_epochs", "less_compute_to_target", "less_compute"]
PROBABILITIES = "mean of probabilities"
MODELS = ("ensemble", "branch_mean", "mean_probabilities", "picked")
MARGIN = 0.5
"""Points of accuracy: the largest difference that does not count, unless a claim states another."""
MOST = 8
"""Most branches of which votes are counted: that of `evaluation.voting`, which needs SciPy."""


class Reference(NamedTuple):
    """`experiment.model@transfer`: one network of a run, after training or, with `@transfer`, before it."""

    experiment: str
    model: str = "ensemble"
    stage: Literal["final", "at_transfer"] = "final"

    def __str__(self) -> str:
        """In words: `one3, branch 1`."""
        words = {"ensemble": "", "branch_mean": ", mean of branches", "mean_probabilities": f", {PROBABILITIES}"}
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
        raise ValueError("only the ensemble is measured at transfer; leave the model out")
    return found


def several(value: Any) -> Any:
    """A single value as a list of one."""
    return value if isinstance(value, list) else [value]


Referred = Annotated[Reference, BeforeValidator(_reference)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Comparison(_Strict):
    """A difference in accuracy, `of` minus each of `than`.

    Attributes:
        kind: `better`, `not_worse`, `nothing` or `about`; see `decisions.region`.
        of: the network that the claim is about.
        than: the networks that it is compared with, each as a separate part.
        each: for "better than each of its parents". If a replicate has several networks of one experiment in `than`,
            it is compared with the best of them; otherwise with their mean.
        target: for `about`, the least and the largest gain in points.
    """

    kind: Compared
    of: Referred
    than: Annotated[list[Referred], BeforeValidator(several), Field(min_length=1)]
    each: bool = False
    target: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _check_target(self) -> "Comparison":
        if (self.kind == "about") != (self.target is not None):
            raise ValueError("`target: [least, largest]` is required for kind `about`, and not allowed for any other")
        if self.target is not None and self.target[0] > self.target[1]:
            raise ValueError(f"target {self.target}: the least gain comes first")
        if self.each and self.kind not in ("better", "not_worse"):
            raise ValueError("`each: true` is for kinds `better` and `not_worse`, as it compares with the best network")
        return self


class Tolerance(_Strict):
    """Largest rise of each score that still counts as kept. Rounding at the edges of the ECE's bins has to fit in.

    Attributes:
        nll: rise of the NLL, in nats.
        ece: rise of the ECE, in percentage points.
    """

    nll: Annotated[Finite, Field(gt=0)]
    ece: Annotated[Finite, Field(gt=0)]


class Kept(_Strict):
    """A property of its parent that a network has at transfer.

    Attributes:
        kind: `predictions_kept`: no predicted class changes, so accuracy stays the same on any subset of the images;
            this is counted. `calibration_kept`: NLL and ECE rise by less than a tolerance; both are tested over seeds.
        of: the experiment, which is compared with its only parent.
        tolerance: the tolerance of `calibration_kept`.
    """

    kind: Keeps
    of: Referred
    tolerance: Tolerance | None = None

    @model_validator(mode="after")
    def _check_tolerance(self) -> "Kept":
        if (self.kind == "calibration_kept") != (self.tolerance is not None):
            raise ValueError("`tolerance: {nll: …, ece: …}` is required for kind `calibration_kept`, and for no other")
        return self

    @property
    def than(self) -> list[Reference]:
        """Empty: the network is compared with its own parent."""
        return []


class Cost(_Strict):
    """The cost of training a network and all its ancestors.

    Attributes:
        kind: `fewer_epochs` and `less_compute_to_target`: epochs or FLOPs until the mean validation accuracy over seeds
            reaches the final accuracy of `than`; `less_compute`: counted FLOPs of all training.
        of: the experiment that is claimed to cost less.
        than: the experiment that it is compared with.
    """

    kind: Costs
    of: Referred
    than: Annotated[list[Referred], BeforeValidator(several), Field(min_length=1, max_length=1)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it must not be empty")
    return text


Statement = Annotated[Words, AfterValidator(_not_blank)]
SECTIONS = (
    *("accuracy", "calibration", "compute", "cost", "curves", "distillation", "failed", "growth", "lineage", "merging"),
    *("method", "one", "published", "results", "transfer", "voting"),
)
"""Sections of a report, by their ids and by the other names that claims have for them."""


def _section(name: str) -> str:
    if name not in SECTIONS:
        hint = study.did_you_mean(name, SECTIONS)
        raise ValueError(f"{name[:80]!r} is no section of a report{hint} (known: {', '.join(SECTIONS)})")
    return name


class Claim(_Strict):
    """One statement.

    Attributes:
        number: its place in the list of claims, such as `4a` if a claim is stated more than once.
        text: the claim, as one sentence.
        source: who claims it.
        section: the report's section with the evidence.
        margin: δ in points of accuracy: the largest difference that does not count.
        lengths: experiments whose numbers of epochs are shown beside the claim's numbers if they differ.
        parts: the claim holds if all of them do.
    """

    number: Annotated[str, Field(pattern=r"^[1-9]\d*[a-z]?$")]
    text: Statement
    source: Statement
    section: Annotated[str, AfterValidator(_section)]
    margin: Annotated[Finite, Field(gt=0)] = MARGIN
    lengths: list[str] = []
    parts: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Stated(NamedTuple):
    """A claim by its name, with its parts checked."""

    id: str
    claim: Claim
    parts: list[Comparison | Kept | Cost]


KINDS: dict[str, type[Comparison] | type[Kept] | type[Cost]] = {
    **dict.fromkeys(get_args(Compared), Comparison),
    **dict.fromkeys(get_args(Keeps), Kept),
    **dict.fromkeys(get_args(Costs), Cost),
}


def read(path: Path, rows: Mapping[str, Experiment], own: Mapping[str, Experiment] | None = None) -> list[Stated]:
    """The claims, in their order.

    Args:
        path: `claims.yaml`.
        rows: all rows of `params.yaml`; claims about rows that a study lacks are not run in it.
        own: the resolved rows of a study; claims that it can decide are checked against these.

    Raises:
        CoopNetError: a key, a kind, an experiment or a model is not known, or two networks are on different data.
    """
    stated: list[Stated] = []
    for name, content in study.read_yaml(path).items():
        where = f"{path.name}: {name}"
        if not re.fullmatch(r"[a-z0-9_]{1,64}", str(name)):
            raise CoopNetError(
                f"{path.name}: {str(name)[:80]!r}: the name of a claim has small letters, digits and underscores"
            )
        claim = study.check(Claim, content, where)
        for other in stated:
            if other.claim.number == claim.number:
                raise CoopNetError(f"{where}.number: {claim.number!r} is the number of {other.id}; give another")
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
    if "margin" in content:
        raise CoopNetError(f"{where}.margin: it is that of the whole claim; write it beside `parts`")
    return study.check(KINDS[kind], content, where)


def _check_gain(part: Comparison | Kept | Cost, margin: float, where: str) -> None:
    if isinstance(part, Comparison) and part.target is not None and part.target[0] <= margin:
        raise CoopNetError(
            f"{where}: the target {part.target[0]:g} is not larger than the margin {margin:g}, so it would not count "
            "as a gain; give a smaller margin"
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
            raise CoopNetError(
                f"{where}: {part.kind} is about {reference.experiment} as a whole; remove the model or @transfer"
            )
    if len({part.of, *part.than}) <= len(part.than):
        raise CoopNetError(f"{where} compares a network with itself, or names one twice")
    row = experiments[part.of.experiment]
    if isinstance(part, Kept) and row.start.kind not in GROWING:
        raise CoopNetError(f"{where}: {part.kind} needs an experiment that grows from exactly one parent")
    if part.kind in ("fewer_epochs", "less_compute_to_target"):
        for name in (part.of.experiment, part.than[0].experiment):
            if not experiments[name].data.validation:
                raise CoopNetError(
                    f"{where}: {name} has no validation images, so the epoch that reaches the target is unknown"
                )
            if not experiments[name].training.epochs:
                raise CoopNetError(f"{where}: {name} is not trained, so it has no epochs to count")
            if len(experiments[name].parents) > 1 or experiments[name].taught:
                raise CoopNetError(
                    f"{where}: {name} has several parents or a teacher, so its epochs cannot be added up"
                )


def _check_model(reference: Reference, row: Experiment, where: str) -> None:
    branches = row.model.branches
    if reference.stage == "at_transfer" and row.start.kind not in TRANSFERS:
        raise CoopNetError(
            f"{where}: {reference.experiment} has the start {row.start.kind!r}, so it has no network at transfer"
        )
    if reference.model == "picked" and not (row.data.validation and 1 < branches <= MOST):
        raise CoopNetError(
            f"{where}: {reference.experiment} has no validation images, or not 2 to {MOST} branches, to pick from"
        )
    if reference.model == "mean_probabilities" and branches == 1:
        raise CoopNetError(f"{where}: {reference.experiment} has one branch; leave `.mean_probabilities` out")
    number = reference.model.removeprefix("branch")
    if number.isdigit() and int(number) > branches:
        raise CoopNetError(f"{where}: {reference.experiment} has {branches} branches, so no {reference.model}")
