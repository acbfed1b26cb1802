"""Which runs of two experiments belong together.

A run of `than` belongs to a run of `of` if all root ancestors of the first are root ancestors of the second: a parent
to its child, a control to the child that shares its parent, a member to its ensemble. Equal seed numbers alone do not
pair two runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

from coopnet.files.errors import CoopNetError
from coopnet.study import Run


class Replicates(NamedTuple):
    """The runs that a comparison rests on.

    Attributes:
        of: one run of the first experiment per replicate.
        than: runs of the second experiment. If paired, the related runs of each replicate of `of`; if not, one run per
            replicate, in a group of its own.
        paired: whether the replicates of `of` and `than` belong together, place by place.
    """

    of: list[Run]
    than: list[list[Run]]
    paired: bool


def roots(run: Run) -> frozenset[tuple[str, int]]:
    """A run's ancestors without parents; the run itself if it has no parents."""
    if not run.parents:
        return frozenset([(run.experiment, run.seed)])
    return frozenset().union(*(roots(parent) for parent in run.parents))


def pair(of: Sequence[Run], than: Sequence[Run]) -> Replicates:
    """Pair the runs of two experiments by lineage; without common ancestors they are unpaired.

    Raises:
        CoopNetError: some runs share ancestors, but not all, so they are neither paired nor independent.
    """
    related = [[other for other in than if roots(other) <= roots(run)] for run in of]
    if all(related):
        return Replicates(list(of), related, paired=True)
    if any(roots(run) & roots(other) for run in of for other in than):
        raise CoopNetError(
            f"{of[0].experiment} and {than[0].experiment} share some ancestors but not all, so they are neither "
            "paired nor independent; put the descendant in `of` and its ancestor in `than`"
        )
    return Replicates(list(of), [[run] for run in than], paired=False)
