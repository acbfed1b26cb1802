"""The rows of a study: defaults, rows of `params.yaml` and an overlay are merged, checked and scaled in time."""

import math
from collections.abc import Mapping
from typing import Any

from coopnet.data.datasets import DATASETS, Dataset
from coopnet.files.errors import CoopNetError
from coopnet.study.descent import check_circles, check_descent
from coopnet.study.messages import check, did_you_mean
from coopnet.study.settings import Experiment, OnTheFly, Overlay, Parameters


def known_datasets(parameters: Parameters) -> dict[str, Dataset]:
    """All datasets by name: the project's own, and those that the parameters describe."""
    return DATASETS | {name: row.dataset(name) for name, row in parameters.datasets.items()}


def resolve(parameters: Parameters, overlay: Overlay, source: str) -> dict[str, Experiment]:
    """Merge defaults, rows and overlay into full rows, and check each row and its parents."""
    for key in [*(overlay.only or []), *overlay.experiments]:
        if key not in parameters.experiments:
            hint = did_you_mean(key, parameters.experiments)
            raise CoopNetError(f"{source}: {key!r} is not an experiment of params.yaml{hint}")
    for key in overlay.experiments:
        if overlay.only is not None and key not in overlay.only:
            raise CoopNetError(f"{source}: experiments.{key} is not in this study; add it to `only`, or remove it")
    experiments, data = {}, known_datasets(parameters)
    for name, row in parameters.experiments.items():
        if overlay.only is not None and name not in overlay.only:
            continue
        merged = merge(merge(parameters.defaults, row), overlay.every_experiment)
        merged = merge(merged, overlay.experiments.get(name, {}))
        experiment = check(Experiment, merged, f"{source}: experiments.{name}", data)
        _check_size(experiment, data[experiment.data.dataset], f"{source}: experiments.{name}")
        experiments[name] = scale(experiment, overlay.time_scale)
    for name, experiment in experiments.items():
        for parent in experiment.parents:
            if parent not in experiments:
                others = [other for other in experiments if other != name]
                hint = did_you_mean(parent, others)
                if parent in parameters.experiments:
                    hint = "; add it to `only`"
                where = f"{source}: experiments.{name}.parents"
                raise CoopNetError(f"{where}: {parent!r} is not an experiment of this study{hint}")
    check_circles(experiments, source)
    for name, experiment in experiments.items():
        for parent in experiment.parents:
            check_descent(experiment, experiments[parent], f"{source}: experiments.{name}.parents: {parent}")
    return experiments


def _check_size(row: Experiment, dataset: Dataset, where: str) -> None:
    """Refuse images so small that a network's strides leave no pixels."""
    if dataset.size < row.model.smallest:
        raise CoopNetError(
            f"{where}.model.family: {row.model.family} needs images of at least {row.model.smallest} pixels a side, "
            f"not {dataset.size}; set datasets.{dataset.name}.size to that, or choose another family"
        )


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings key by key; the second wins. A section with a different `kind` is replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(known, Mapping)
            and value.get("kind", known.get("kind")) == (known.get("kind"))
        ):
            merged[key] = merge(known, value)
        else:
            merged[key] = value
    return merged


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name: `training.optimizer.lr`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def scale(experiment: Experiment, factor: float) -> Experiment:
    """Scale a row in time: epochs, milestones and ramp-up by one factor, so that a short study still distils.

    The prior of `masked` opens at fractions of the steps, so it needs no scaling.
    """
    if factor == 1:
        return experiment
    training = experiment.training

    def stretched(epochs: int) -> int:
        return max(1, math.floor(epochs * factor + 0.5))

    epochs = stretched(training.epochs) if training.epochs else 0

    def milestone(epoch: int) -> int:
        # A milestone that is reached must still be reached: rounding must not remove the last learning-rate drop.
        return stretched(epoch) if epoch >= training.epochs else min(stretched(epoch), max(1, epochs - 1))

    schedule, distillation = training.schedule, training.distillation
    if isinstance(distillation, OnTheFly):
        distillation = distillation.model_copy(update={"rampup": distillation.rampup * factor})
    longer = {
        "epochs": epochs,
        "schedule": schedule.model_copy(update={"milestones": [milestone(m) for m in schedule.milestones]}),
        "distillation": distillation,
    }
    return experiment.model_copy(update={"training": training.model_copy(update=longer)})
