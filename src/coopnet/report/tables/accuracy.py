"""Final accuracy and calibration: `runs` per seed, `accuracy` over seeds."""

from collections.abc import Iterable, Sequence

from coopnet.report.lineage import Lineage
from coopnet.report.runs import SCORES, Run, StudyInfo
from coopnet.report.tables.rows import Row, Tables, averaged

RUNS = ("experiment", "seed", "split", "model", "images", *SCORES, "gate")


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Tables `runs` and `accuracy`."""
    scores = list(_scores(runs))
    return {"runs": (RUNS, scores), "accuracy": averaged(scores, ("experiment", "split", "model"), SCORES)}


def _scores(runs: Sequence[Run]) -> Iterable[Row]:
    """One row per run, split and model: final scores; `gate` is the mean gate weight of a branch."""
    for run in runs:
        for split in ("test", "validation"):
            block = run.metrics["final"].get(split)
            for model, scores in run.models(block).items() if block else ():
                yield {
                    "experiment": run.experiment,
                    "seed": run.seed,
                    "split": split,
                    "model": model,
                    "images": block["images"],
                    **scores,
                }
