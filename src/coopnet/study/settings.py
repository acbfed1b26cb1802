"""The schema of `params.yaml`: one model per section; every key is checked and unknown keys are refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from coopnet.data.datasets import DATASETS, USUAL_SIZE, Dataset

LONGEST = 1_000_000
"""Most epochs that a setting accepts; more is a typing error."""
LARGEST = 2**31 - 1
"""Largest integer that a setting accepts: every library and every table can store it."""


class Section(BaseModel):
    """A section of the file: immutable, without unknown keys, NaN or infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # Python treats it as 0 or 1
        raise ValueError(f"{str(value).lower()} is not a number (YAML reads yes, no, on and off as true or false)")
    return value


def _words(text: str) -> str:
    """One line of plain text that a terminal, a web page, a PDF and a spreadsheet all show unchanged."""
    text = " ".join(text.split())
    hidden = [character for character in text if not character.isprintable() and character not in JOINERS]
    if hidden:
        raise ValueError(f"it holds the character U+{ord(hidden[0]):04X}, which is invisible; remove it")
    if text.startswith(("=", "+", "-", "@")):
        raise ValueError(f"it begins with {text[0]!r}, which spreadsheets read as a formula; begin with a word")
    return text


def _folder(text: str) -> str:
    """A relative folder below the folder of `params.yaml`."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{text!r} is not below the folder of params.yaml; use a relative path without ..")
    if not all(part[0].isalnum() and all(c.isalnum() or c in "_.-" for c in part) for part in path.parts):
        raise ValueError(f"{text!r} has characters other than letters, digits, _, . and -; rename the folder")
    return text


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"{seeds} has a seed twice; give each seed once")
    return seeds


JOINERS = "\u200c\u200d"
"""Invisible characters that some scripts need."""

Whole = Annotated[int, BeforeValidator(_number), Field(le=LARGEST)]
Real = Annotated[float, BeforeValidator(_number)]
Words = Annotated[str, AfterValidator(_words)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seeds = Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
NAME = "^[a-z][a-z0-9_]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]


class HeldOut(Section):
    """Which images become the test images if the data has none: a fraction of each class, chosen by a seed."""

    fraction: Real = Field(gt=0, lt=1, description="of all images, stratified")
    seed: Whole = Field(0, ge=0, description="seed of that choice")


class Counts(Section):
    """Images of each split."""

    train: Whole = Field(ge=2, description="training images")
    test: Whole = Field(ge=1, description="test images")


class Digests(Section):
    """Content digest of each split."""

    train: Digest = Field(description="digest of the training images: SHA-256 in canonical order")
    test: Digest = Field(description="digest of the test images")


class Pinned(Section):
    """Measurements of a dataset; `coopnet prepare` prints this section. It is part of every run's key."""

    classes: Whole = Field(ge=2, le=2**16, description="number of classes")
    counts: Counts = Field(description="number of images")
    digest: Digests = Field(description="content digests")
    mean: list[Annotated[Real, Field(ge=0, le=1)]] = Field(
        min_length=3, max_length=3, description="mean of each channel over the training images, in 0..1"
    )
    std: list[Annotated[Real, Field(gt=0, le=1)]] = Field(
        min_length=3, max_length=3, description="standard deviation of each channel over these images, in 0..1"
    )


class DatasetEntry(Section):
    """A dataset of one's own; or the measurements of a dataset that the project does not pin (svhn)."""

    source: Literal["folder", "parquet"] | None = Field(
        None, description="folder: one folder per class; parquet: shards in the Hugging Face layout"
    )
    path: Words | None = Field(
        None,
        description="a folder: with train/ and test/, each with a folder per class; or with a folder per class; or "
        "with the shards",
    )
    size: Whole = Field(USUAL_SIZE, ge=4, le=1024, description="pixels of a side; images are resized to it")
    label: Words = Field("label", description="column of the labels in Parquet shards")
    test: HeldOut | None = Field(None, description="null: the data has test images")
    pinned: Pinned | None = Field(None, description="null: not measured yet; nothing can be trained on it")

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name."""
        known = DATASETS.get(name)
        measured: dict[str, Any] = {"classes": 0, "counts": {}, "digest": {}, "mean": (), "std": ()}
        if self.pinned is not None:
            content = self.pinned.model_dump()
            measured = content | {part: tuple(content[part]) for part in ("mean", "std")}
        if known is not None:
            return replace(known, **measured) if self.pinned is not None else known
        return Dataset(
            name=name,
            sources=(str(self.source),),
            label_column=self.label,
            size=self.size,
            measured=True,
            path=str(self.path),
            held_back=self.test.fraction if self.test else 0.0,
            split_seed=self.test.seed if self.test else 0,
            **measured,
        )


def _datasets(info: ValidationInfo) -> Mapping[str, Dataset]:
    """The datasets that rows may name, including those that the checked `params.yaml` describes."""
    known: Mapping[str, Dataset] = (info.context or {}).get("datasets", DATASETS)
    return known


def _dataset(name: str, info: ValidationInfo) -> str:
    known = _datasets(info)
    if name not in known:
        names = ", ".join(repr(one) for one in known)
        raise PydanticCustomError(
            "literal_error",
            "it is no dataset; known are {expected}, others are described in `datasets`",
            {"expected": names},
        )
    if not known[name].digest:
        raise ValueError(
            f"{name} is not pinned; run `coopnet prepare {name}`, and add the line that it prints to datasets.{name}"
        )
    return name


class Data(Section):
    """The data for a run's training and evaluation."""

    dataset: Annotated[str, AfterValidator(_dataset)] = Field(
        description="digits, digits16, cifar10, cifar100, svhn, or one described in `datasets`"
    )
    validation: Whole = Field(0, ge=0, description="training images kept for validation, stratified and seeded")
    split_seed: Whole = Field(0, ge=0, description="seed of the validation split and of the training subset")
    training_subset: Whole | None = Field(None, ge=2, description="train on this many images, stratified; null: all")
    images: Whole | None = Field(
        None, description="number of training images, filled in from `datasets` in params.yaml; do not set it"
    )
    augmentation: Literal["crop_flip", "none"] = Field(
        "crop_flip", description="crop_flip: a random crop of the padded image, mirrored half of the time"
    )
    normalization: Literal["dataset", "lan2018"] = Field(
        "dataset",
        description="mean and std of this dataset, or those of the published code (CIFAR-10's for both)",
    )

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> "Data":
        dataset = _datasets(info)[self.dataset]
        available = dataset.counts["train"]
        if self.images is not None:
            raise ValueError(f"images is filled in from datasets.{self.dataset}.pinned; leave it out")
        if self.validation + (self.training_subset or 2) > available:
            raise ValueError(
                f"validation {self.validation} and training_subset {self.training_subset} "
                f"do not fit into the {available} training images of {self.dataset}"
            )
        return self.model_copy(update={"images": available}) if dataset.measured else self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `images` out where the project pins the dataset, so that the run keys of its rows stay the same."""
        content: dict[str, Any] = handler(self)
        if self.images is None:
            del content["images"]
        return content


WRAPPED = ("timm", "torchvision")
"""Families whose networks come from a library, by name; the network is cut in two at `split`."""


class Model(Section):
    """The network."""

    family: Literal["cifar_resnet", "resnet18", "timm", "torchvision"] = Field(
        "cifar_resnet",
        description="cifar_resnet, resnet18: residual networks of the project; timm, torchvision: a library, see name",
    )
    name: Words | None = Field(None, description="name of a timm or torchvision model, such as resnet18")
    split: Words | None = Field(None, description="the module at which the branches begin, such as layer4")
    depth: Whole = Field(32, le=10_000, description="6n+2 with basic blocks, 9n+2 with bottlenecks, 18 for resnet18")
    block: Literal["basic", "bottleneck"] = Field("basic", description="kind of residual block")
    width: Whole = Field(16, ge=1, le=10_000, description="channels of the first stage")
    branches: Whole = Field(1, ge=1, le=100, description="number of branches B")
    gate: Literal["learned", "mean", "none"] = Field(
        "learned", description="mean: all branches have the same weight; none: a plain network with one branch"
    )
    trunk: Literal["shared", "own"] = Field("shared", description="own: each branch has a trunk of its own")

    @model_validator(mode="after")
    def _exists(self) -> "Model":
        if self.wrapped and not (self.name and self.split):
            raise ValueError(f"family {self.family} needs name, a model of {self.family}, and split, a module of it")
        if not self.wrapped and (self.name or self.split):
            raise ValueError(f"name and split are for family timm or torchvision, not {self.family}")
        if self.family == "resnet18":
            if self.depth != 18 or self.block != "basic":
                raise ValueError(f"resnet18 has depth 18 and basic blocks, not {self.depth} and {self.block}")
        elif not self.wrapped:
            layers = 6 if self.block == "basic" else 9
            if self.depth < layers + 2 or (self.depth - 2) % layers:
                near = layers * max(1, round((self.depth - 2) / layers)) + 2
                raise ValueError(f"depth {self.depth} is not {layers}n+2 ({self.block} blocks); {near} would be")
        if self.gate == "none" and self.branches > 1:
            raise ValueError(f"{self.branches} branches need gate: learned or mean")
        if self.trunk == "own" and self.branches == 1:
            raise ValueError("trunk: own needs at least 2 branches; a single branch always has its own trunk")
        return self

    @property
    def wrapped(self) -> bool:
        """Whether the network comes from a library."""
        return self.family in WRAPPED

    @property
    def smallest(self) -> int:
        """Smallest image side, in pixels, for which the strides leave a pixel; 1 if that is not known yet."""
        return {"cifar_resnet": 4, "resnet18": 8}.get(self.family, 1)

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that do not apply to such a network, so that the run keys of other rows stay the same."""
        content: dict[str, Any] = handler(self)
        idle = ("depth", "block", "width") if self.wrapped else ("name", "split")
        return {key: value for key, value in content.items() if key not in idle}


class Random(Section):
    """Freshly initialised."""

    kind: Literal["random"] = "random"


class Continue(Section):
    """The parent unchanged, trained on with its optimiser state: the control."""

    kind: Literal["continue"]


class ZeroPad(Section):
    """New branches behind gate rows of zero: the published transfer code."""

    kind: Literal["zero_pad"]


class ZeroOutput(Section):
    """Like `zero_pad`, with classifiers of zero: the published proof."""

    kind: Literal["zero_output"]


class Masked(Section):
    """New branches behind a log-prior of −∞ that opens during fine-tuning."""

    kind: Literal["masked"]
    opens: bool = Field(True, description="false: the prior stays closed")
    closed_until: Real = Field(0.4, ge=0, lt=1, description="fraction of the steps in which the prior stays closed")
    open_from: Real = Field(0.6, ge=0, le=1, description="fraction of the steps after which it is fully open")

    @model_validator(mode="after")
    def _ordered(self) -> "Masked":
        if self.open_from < self.closed_until:
            raise ValueError(f"open_from {self.open_from} is below closed_until {self.closed_until}")
        return self


class Split(Section):
    """Copies of donor branches that share their donors' weight in the ensemble."""

    kind: Literal["split"]
    donors: list[Whole] | None = Field(None, description="branches to copy, from 1; null: 1, 2, … in turn")
    noise: Real = Field(0.1, ge=0, description="σ, in units of each weight tensor's standard deviation")


class Imported(Section):
    """A checkpoint that `coopnet import` has converted."""

    kind: Literal["imported"]
    path: Annotated[str, AfterValidator(_folder)] = Field(
        description="the folder that `coopnet import --out` wrote, relative to params.yaml"
    )


class Combine(Section):
    """One-branch networks under one gate, each with its own trunk; with `gate: mean`, their plain logit ensemble."""

    kind: Literal["combine"]
    gate_rows: Literal["uniform", "parents"] = Field("uniform", description="parents: copies of theirs, as published")


class Merge(Section):
    """One-branch networks as branches of one trunk."""

    kind: Literal["merge"]
    trunk: Literal["first", "mean", "matched", "refit"] = Field(
        "refit",
        description="first: the first network's; mean: the mean of all; matched: their mean after channels are matched "
        "by permutation; "
        "refit: the first network's, with the convolutions that read it solved anew by least squares",
    )
    reestimate: bool = Field(False, description="measure BatchNorm statistics again; refit always does")
    gate_rows: Literal["uniform", "parents"] = Field("uniform", description="parents: copies of theirs, as published")
    images: Whole | None = Field(5000, ge=2, description="training images for statistics and regressions; null: all")
    ridge: Real = Field(1e-4, ge=1e-10, description="penalty of the regressions, relative to features' mean square")


Start = Annotated[
    Random | Continue | ZeroPad | ZeroOutput | Masked | Split | Combine | Merge | Imported,
    Field(discriminator="kind"),
]
GROWING = ("zero_pad", "zero_output", "masked", "split")
"""Transfers that add branches to one network."""
JOINING = ("combine", "merge")
"""Transfers that make one network from several."""
TRANSFERS = GROWING + JOINING
"""Starts that build a network's first weights out of trained ones."""


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    lr: Real = Field(gt=0, description="learning rate at the start")
    momentum: Real = Field(0.9, ge=0, lt=1, description="coefficient of the previous update")
    nesterov: bool = Field(False, description="Nesterov's momentum")
    weight_decay: Real = Field(1e-4, ge=0, description="weight decay of every parameter, BatchNorm's included")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(Section):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    kind: Literal["adam"]
    lr: Real = Field(gt=0, description="learning rate at the start")
    betas: tuple[Annotated[Real, Field(ge=0, lt=1)], Annotated[Real, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="decay of the running means of the gradient and of its square"
    )
    weight_decay: Real = Field(0.0, ge=0, description="weight decay of every parameter, added to its gradient")


class GradientRatio(Section):
    """One learning rate per module, from the ratio of the last module's mean absolute gradient to its own."""

    every: Whole = Field(1, ge=1, le=LONGEST, description="steps between two updates of the factors")
    smoothing: Real = Field(0.0, ge=0, lt=1, description="s in f ← s·f + (1−s)·ratio")
    lowest: Real = Field(0.1, gt=0, description="lower bound of the ratio")
    highest: Real = Field(20.0, gt=0, description="upper bound of the ratio")

    @model_validator(mode="after")
    def _ordered(self) -> "GradientRatio":
        if self.highest < self.lowest:
            raise ValueError(f"highest {self.highest:g} is below lowest {self.lowest:g}")
        return self


class Schedule(Section):
    """The learning rate is multiplied by γ when a milestone epoch begins (epochs count from 0)."""

    milestones: list[Annotated[Whole, Field(ge=1, le=LONGEST)]] = Field([], description="epochs, ascending")
    gamma: Real = Field(0.1, gt=0, description="γ, the factor at each milestone")
    gradient_ratio: GradientRatio | None = Field(None, description="null: one learning rate for all modules")

    @model_validator(mode="after")
    def _ascending(self) -> "Schedule":
        if self.milestones != sorted(self.milestones):
            raise ValueError(f"milestones {self.milestones} must be in ascending order")
        return self


class OnTheFly(Section):
    """ONE: the ensemble teaches the branches. A network without a gate is not affected."""

    kind: Literal["on_the_fly"] = "on_the_fly"
    temperature: Real = Field(3.0, ge=0.01, description="temperature T, which divides the logits")
    rampup: Real = Field(80, ge=0, le=LONGEST, description="R, in epochs; 0: full weight from the start")


class NoDistillation(Section):
    """Branches and ensemble learn from the labels only."""

    kind: Literal["none"]


class Mutual(Section):
    """Deep mutual learning: labels, and every branch teaches every other branch."""

    kind: Literal["mutual"]
    temperature: Real = Field(1.0, ge=0.01, description="temperature T, which divides the logits")


class SoftLabels(Section):
    """The parent's probabilities, without labels."""

    kind: Literal["soft_labels"]
    temperature: Real = Field(1.0, ge=0.01, description="temperature T, which divides the logits")


class Knowledge(Section):
    """Labels, and the parent's softened probabilities."""

    kind: Literal["knowledge"]
    temperature: Real = Field(3.0, ge=0.01, description="temperature T, which divides the logits")


Distillation = Annotated[
    OnTheFly | NoDistillation | Mutual | SoftLabels | Knowledge,
    Field(discriminator="kind"),
]
TAUGHT = ("soft_labels", "knowledge")
"""Kinds of distillation in which the row's parent is the teacher and provides no weights."""


class Training(Section):
    """How a run is trained."""

    epochs: Whole = Field(ge=0, le=LONGEST, description="0: the initial network, untrained")
    batch_size: Whole = Field(128, ge=2, description="images per step")
    optimizer: Annotated[SGD | Adam, Field(discriminator="kind", description="optimizer and its settings")]
    schedule: Schedule = Field(Schedule(), description="schedule of the learning rate")
    distillation: Distillation = Field(OnTheFly(), description="kind of distillation")
    selection: Literal["last", "best_validation"] = Field("last", description="which epoch's network is the result")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: mixed precision; weights, BatchNorm's statistics, gate and loss stay fp32"
    )
    test_every: Whole = Field(
        1, ge=1, description="epochs between two evaluations on the test images, for the curves; the last is always one"
    )


Part = Literal["foundation", "variants", "growth", "step2", "elsewhere", "distillation"]
"""Part of the study: the section of the report that has a row."""


class Experiment(Section):
    """One row of the study: a model, how its weights start, how it is trained."""

    about: Words = Field(description="one line for the report")
    part: Part = Field("foundation", description="section of the report")
    data: Data = Field(description="training, validation and test images")
    model: Model = Field(description="the network")
    parents: list[str] = Field([], description="experiments that give its weights; with start random its teacher")
    start: Start = Field(Random(), description="initial weights")
    training: Training = Field(description="training settings")
    seeds: Seeds | None = Field(None, description="null: the study's seeds")

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        start, model, training = self.start.kind, self.model, self.training
        distillation = training.distillation.kind
        if distillation in TAUGHT and (start != "random" or model.gate != "none"):
            raise ValueError(f"training.distillation {distillation} is for a student with start random and gate none")
        if distillation == "mutual" and (model.branches < 2 or model.gate != "mean"):
            raise ValueError(
                "training.distillation mutual needs at least 2 branches, which teach each other, and model.gate mean, "
                "since mutual learning trains no gate"
            )
        self._check_parents()
        if training.selection == "best_validation" and not self.data.validation:
            raise ValueError("training.selection best_validation needs data.validation above 0")
        if training.epochs == 0 and start == "random":
            raise ValueError(
                "training.epochs 0 leaves a random network; only networks made from trained ones may stay so"
            )
        if training.epochs == 0 and isinstance(self.start, Masked) and self.start.opens:
            raise ValueError(
                "training.epochs 0 never opens the prior of start masked; give it at least 1 epoch, or opens: false"
            )
        if self.start.kind == "imported" and (self.seeds is None or len(self.seeds) != 1):
            raise ValueError("an imported checkpoint is one network: give it exactly one seed, e.g. seeds: [0]")
        return self

    def _check_parents(self) -> None:
        """Refuse a number of parents or an architecture that the start cannot use."""
        start, model = self.start.kind, self.model
        if start in JOINING:
            if len(self.parents) < 2 or model.branches != len(self.parents):
                raise ValueError(
                    f"start {start} needs at least 2 parents and makes one branch of each, "
                    f"not {self.parents} with model.branches {model.branches}"
                )
            wanted = "own" if start == "combine" else "shared"
            if model.trunk != wanted:
                raise ValueError(f"start {start} makes model.trunk {wanted}, not {model.trunk}")
            if start == "merge" and model.gate != "learned":
                raise ValueError(f"start merge needs model.gate learned, not {model.gate}")
            return
        needed = 0 if start == "imported" else 1
        why = f"start {start}"
        if start == "random":
            needed = int(self.training.distillation.kind in TAUGHT)
            why += f" with training.distillation {self.training.distillation.kind}"
        if len(self.parents) != needed:
            raise ValueError(f"{why} needs {needed or 'no'} parent{'s' * (needed != 1)}, not {self.parents}")
        if start in GROWING and (model.gate, model.trunk) != ("learned", "shared"):
            raise ValueError(f"start {start} needs model.gate learned and model.trunk shared")

    @property
    def taught(self) -> bool:
        """Whether its parent is its teacher and provides no weights."""
        return self.start.kind == "random" and bool(self.parents)

    def decisive(self) -> dict[str, Any]:
        """The part of this row that decides a run's result, as plain values: all but texts, seeds and parent names."""
        return self.model_dump(mode="json", exclude={"about", "part", "seeds", "parents"})


class Parameters(Section):
    """`params.yaml`: the full study."""

    title: Words = Field(description="title of the report")
    description: Words = Field("", description="a few sentences for the report")
    device: Literal["cpu", "cuda"] = Field(description="device of all runs")
    threads: Whole = Field(
        ge=1,
        le=1_024,
        description="CPU threads of each run; a result's bits depend on it, so the scheduler must not choose it",
    )
    seeds: Seeds = Field(description="seeds of experiments without their own")
    defaults: dict[str, Any] = Field({}, description="defaults of every experiment")
    datasets: dict[Name, DatasetEntry] = Field({}, description="your own datasets, and the measurements of svhn")
    experiments: dict[Name, dict[str, Any]] = Field(min_length=1, description="the rows: name → experiment")

    @model_validator(mode="after")
    def _described(self) -> "Parameters":
        for name, row in self.datasets.items():
            described = sorted(row.model_fields_set - {"pinned"})
            if name in DATASETS and not DATASETS[name].measured:
                raise ValueError(f"datasets.{name} is the project's own dataset; give yours another name")
            if name in DATASETS and described:
                raise ValueError(f"datasets.{name}.{described[0]}: {name} is the project's own; only pinned can be set")
            if name not in DATASETS and not (row.source and row.path):
                missing = "path" if row.source else "source"
                raise ValueError(f"datasets.{name}.{missing} is missing; source is folder or parquet, path its folder")
        return self


class Overlay(Section):
    """`studies/<name>.yaml`: another study, as its differences from `params.yaml`."""

    title: Words | None = Field(None, description="title of the report; null: as in params.yaml")
    description: Words | None = Field(None, description="a few sentences for the report; null: none")
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="device of all runs; null, here and below: as in params.yaml"
    )
    threads: Whole | None = Field(None, ge=1, le=1_024, description="CPU threads of each run")
    seeds: Seeds | None = Field(None, description="seeds of experiments without their own")
    time_scale: Real = Field(1.0, gt=0, le=1000, description="multiplies epochs, milestones and ramp-up together")
    only: list[str] | None = Field(None, min_length=1, description="names of the experiments of this study; null: all")
    every_experiment: dict[str, Any] = Field({}, description="merged over the row of every experiment")
    experiments: dict[str, dict[str, Any]] = Field({}, description="merged over single rows, last")
