"""Which experiment may descend from which: no cycles, and only from parents whose weights fit."""

import graphlib
from collections.abc import Mapping
from typing import Any

from coopnet.files.errors import CoopNetError
from coopnet.study.settings import GROWING, JOINING, Experiment

GENERATIONS = 100
"""Longest allowed chain of experiments in which each is a child of the one before."""


def check_circles(experiments: Mapping[str, Experiment], source: str) -> None:
    """Refuse experiments that descend from themselves, or through more than `GENERATIONS` generations."""
    try:
        order = list(
            graphlib.TopologicalSorter({name: row.parents for name, row in experiments.items()}).static_order()
        )
    except graphlib.CycleError as error:
        circle = error.args[1]
        raise CoopNetError(
            f"{source}: experiments.{circle[0]}.parents: {' → '.join(circle)} is a circle; remove one of these parents"
        ) from None
    generation: dict[str, int] = {}
    for name in order:
        generation[name] = 1 + max((generation[parent] for parent in experiments[name].parents), default=0)
        if generation[name] > GENERATIONS:
            raise CoopNetError(
                f"{source}: experiments.{name}.parents: {experiments[name].parents[0]!r} is {GENERATIONS} generations "
                "deep already; choose an older parent"
            )


def check_descent(child: Experiment, parent: Experiment, where: str) -> None:
    """Refuse a child whose parent has weights that do not fit it."""
    pairs: list[tuple[str, Any, Any]] = [("data.dataset", child.data.dataset, parent.data.dataset)]
    pairs += [("data.normalization", child.data.normalization, parent.data.normalization)]
    if child.data.validation:  # otherwise the parent may have been trained on the child's validation images
        pairs.append(("data.validation", child.data.validation, parent.data.validation))
        pairs.append(("data.split_seed", child.data.split_seed, parent.data.split_seed))
    if not child.taught:
        fields = ["family", "name", "split"]
        fields += [] if child.model.wrapped else ["depth", "block", "width"]
        fields += ["branches", "gate", "trunk"] if child.start.kind == "continue" else []
        pairs += [(f"model.{field}", getattr(child.model, field), getattr(parent.model, field)) for field in fields]
    for field, own, other in pairs:
        if own != other:
            raise CoopNetError(f"{where} has {field} {other}, its child {own}; both must have the same value")
    if child.start.kind in JOINING and parent.model.branches != 1:
        raise CoopNetError(
            f"{where} has {parent.model.branches} branches; start {child.start.kind} needs networks with one branch"
        )
    if child.start.kind in GROWING:
        if (parent.model.gate, parent.model.trunk) not in (("learned", "shared"), ("none", "shared")):
            raise CoopNetError(
                f"{where} has model.gate {parent.model.gate} and model.trunk {parent.model.trunk}; "
                f"start {child.start.kind} grows networks with a learned gate, or none, on a shared trunk"
            )
        before, after = parent.model.branches, child.model.branches
        if after <= before:
            raise CoopNetError(f"{where} has {before} branches; its child needs more, not {after}")
        donors = getattr(child.start, "donors", None)
        if donors is not None and (len(donors) != after - before or not set(donors) <= set(range(1, before + 1))):
            raise CoopNetError(
                f"{where}: start.donors {donors} must name {after - before} of its branches 1 to {before}"
            )
