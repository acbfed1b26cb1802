"""Ancestors and controls of the runs of a study."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from coopnet.report.runs import Run, StudyInfo


class Control(NamedTuple):
    """The continued-training control of a run: its parents, trained for as long as it, without a transfer.

    Attributes:
        singles: each parent, continued with the run's own training.
        ensemble: the single itself, or the plain ensemble of several singles; None if the study has no such row.
    """

    singles: list[Run]
    ensemble: Run | None

    @property
    def name(self) -> str:
        """Name of the control: the ensemble of the continued parents, or their names if the study has no ensemble."""
        singles = "; ".join(dict.fromkeys(single.experiment for single in self.singles))
        return self.ensemble.experiment if self.ensemble else singles


class Lineage:
    """The ancestors of runs, found by the keys in their records."""

    def __init__(self, runs: Sequence[Run], study: StudyInfo):
        declared = {row["name"]: {p["experiment"] for p in row.get("parents") or ()} for row in study.experiments}
        self._origins: dict[tuple[str, int], list[Run]] = {}
        for run in runs:
            named = {other.key: other for other in runs if other.experiment in declared[run.experiment]}
            keys = [parent["key"] for parent in run.record.get("parents") or ()]
            self._origins[run.experiment, run.seed] = [named[key] for key in keys if key in named]
        self._continued = {self._identity(run): run for run in reversed(runs) if run.start == "continue"}
        self._ensembles = {self._keys(run): run for run in reversed(runs) if run.plain_ensemble}

    def origins(self, run: Run) -> list[Run]:
        """The runs that a run needs: its parents or its teacher."""
        return self._origins[run.experiment, run.seed]

    def whole(self, run: Run) -> list[Run]:
        """The run and all its ancestors, teachers included, each distinct run once."""
        found = {run.key: run}
        for origin in self.origins(run):
            found |= {one.key: one for one in self.whole(origin)}
        return list(found.values())

    def parents(self, run: Run) -> list[Run]:
        """The runs whose weights a run starts from."""
        return [] if run.start == "random" else self.origins(run)

    def teacher(self, run: Run) -> Run | None:
        """The teacher of a run that starts from random weights."""
        return next(iter(self.origins(run)), None) if run.start == "random" else None

    def control(self, run: Run) -> Control | None:
        """The parents, each trained further with the same settings except distillation; None if one is lacking."""
        parents = self.parents(run)
        found = [self._continued.get((parent.key, _training(run))) for parent in parents]
        singles = [single for single in found if single]
        if not run.transferred or not singles or len(singles) < len(parents):
            return None
        if len(singles) == 1:
            return Control(singles, singles[0])
        return Control(singles, self._ensembles.get(tuple(single.key for single in singles)))

    def _keys(self, run: Run) -> tuple[str, ...]:
        return tuple(parent.key for parent in self.origins(run))

    def _identity(self, run: Run) -> tuple[str, str]:
        """The parent and the training of a continued run."""
        return next(iter(self._keys(run)), ""), _training(run)


def _training(run: Run) -> str:
    """A run's data and training settings, as one comparable text.

    `distillation` is left out, because a one-branch network has none, and `test_every`, which affects only the curves.
    """
    left_out = ("distillation", "test_every")
    settings: dict[str, Any] = {key: value for key, value in run.row["training"].items() if key not in left_out}
    return json.dumps([run.row["data"], settings], sort_keys=True)
