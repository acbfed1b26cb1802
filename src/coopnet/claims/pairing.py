"""Which runs of two experiments belong together.

Two runs are paired when everything one of them began with is among what the other began with: a child and its parent,
a child and the control that shares its parent, an ensemble and its members. Equal seed numbers alone pair nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from coopnet.files.errors import CoopNetError
from coopnet.study import Run


class Replicates(NamedTuple):
    """The runs that a comparison rests on.

    Attributes:
        of: one run of the first experiment per replicate.
        than: of the second experiment, for each of those the runs of its lineage; where nothing is paired, all its
            runs by themselves, one per replicate of its own.
        paired: whether `of` and `than` go together, place by place.
    """

    of: list[Run]
    than: list[list[Run]]
    paired: bool


def roots(run: Run) -> frozenset[tuple[str, int]]:
    """The runs without parents that a run descends from; itself, if it has none."""
    if not run.parents:
        return frozenset([(run.experiment, run.seed)])
    return frozenset().union(*(roots(parent) for parent in run.parents))


def pair(of: Sequence[Run], than: Sequence[Run]) -> Replicates:
    """Put the runs of two experiments together by lineage, or side by side where they share none.

    Raises:
        CoopNetError: some share ancestors, but not all of `than` among those of `of`: neither paired nor independent.
    """
    related = [[other for other in than if roots(other) <= roots(run)] for run in of]
    if all(related):
        return Replicates(list(of), related, paired=True)
    if any(roots(run) & roots(other) for run in of for other in than):
        raise CoopNetError(
            f"{of[0].experiment} and {than[0].experiment} share some ancestors, so they are neither paired nor "
            f"independent; compare what descends with what it descends from, in this order"
        )
    return Replicates(list(of), [[run] for run in than], paired=False)
