"""Votes of fewer branches: `votes` with every subset, `votes_best` with those chosen on validation images."""

from collections.abc import Iterable, Sequence

from coopnet.files.errors import CoopNetError
from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, StudyInfo
from coopnet.report.tables.rows import Row, Tables, difference, groups

ACCURACIES = ("top1", "top5")
VOTES = ("experiment", "seed", "split", "subset", "size", "rule", *ACCURACIES)
BEST = ("experiment", "seed", "rule", "score", "size", "subset", "validation", "test", "all_test", "over_all")


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `votes` and `votes_best`, of the networks with most branches among those trained from random weights."""
    scratch = [run for run in runs if run.start == "random" and run.branches > 1]
    most = max((run.branches for run in scratch), default=0)
    voting = [run for run in scratch if run.branches == most]
    for run in voting:
        if not run.votes:
            raise CoopNetError(
                f"the gathered results have no votes of {run.experiment} seed {run.seed}, which this study needs; "
                "train that run here"
            )
    votes = [row for run in voting for row in _votes(run)]
    return {"votes": (VOTES, votes), "votes_best": (BEST, list(_best(votes, most)))}


def _votes(run: Run) -> Iterable[Row]:
    for line in run.votes:
        scores = {score: float(line[score]) for score in ACCURACIES}
        yield {"experiment": run.experiment, "seed": run.seed, **line, "size": int(line["size"]), **scores}


def _best(votes: Sequence[Row], branches: int) -> Iterable[Row]:
    """Per run, rule, score and size: the subset that is best on validation, and its score on test.

    Ties go to the first subset. Test images are not used for the choice.
    """
    known = {_place(row): row for row in votes}
    for group, members in groups(votes, ("experiment", "seed", "split", "rule", "size")):
        if group.pop("split") != "validation":
            continue
        for score in ACCURACIES:
            best = max(members, key=lambda row: row[score])  # the first of equals
            test = known[_place(best | {"split": "test"})][score]
            everyone = "+".join(str(number) for number in range(1, branches + 1))
            full = known[_place(best | {"split": "test", "subset": everyone})][score]
            yield group | {
                "score": score,
                "subset": best["subset"],
                "validation": best[score],
                "test": test,
                "all_test": full,
                "over_all": difference(test, full),
            }


def _place(row: Row) -> tuple[str, int, str, str, str]:
    return row["experiment"], row["seed"], row["split"], row["rule"], row["subset"]
