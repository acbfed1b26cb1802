"""Who descends from whom among the runs of a study, and which runs are whose control."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from coopnet.report.runs import Run, StudyInfo


class Control(NamedTuple):
    """The continued-training control of a run: its parents, trained for as long as it, without a transfer.

    Attributes:
        singles: each parent, continued with the run's own training.
        ensemble: the one network that they are together: the single itself, or the plain ensemble of several; None
            where the study has no such row.
    """

    singles: list[Run]
    ensemble: Run | None

    @property
    def name(self) -> str | None:
        """The experiment that stands for the control: the ensemble, or else the singles it would be made of."""
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
        """The runs it needs: those it starts from, or its teacher."""
        return self._origins[run.experiment, run.seed]

    def whole(self, run: Run) -> list[Run]:
        """The run, then all that it descends from, teachers included, each distinct run once."""
        found = {run.key: run}
        for origin in self.origins(run):
            found |= {one.key: one for one in self.whole(origin)}
        return list(found.values())

    def parents(self, run: Run) -> list[Run]:
        """The runs whose weights it starts from."""
        return [] if run.start == "random" else self.origins(run)

    def teacher(self, run: Run) -> Run | None:
        """The run it learns from, for one that starts from nothing."""
        return next(iter(self.origins(run)), None) if run.start == "random" else None

    def control(self, run: Run) -> Control | None:
        """Its parents, trained further by the same settings but for distillation; None unless all of them were."""
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
        """A continued run, by its parent and its training."""
        return next(iter(self._keys(run)), ""), _training(run)


def _training(run: Run) -> str:
    """Its data and the settings of its training, as one comparable text.

    Without distillation, which a network of one branch has none of, and without what only draws a curve.
    """
    left_out = ("distillation", "test_every")
    settings: dict[str, Any] = {key: value for key, value in run.row["training"].items() if key not in left_out}
    return json.dumps([run.row["data"], settings], sort_keys=True)
