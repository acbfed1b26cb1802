"""The tables of a study: everything the report needs, as CSV and JSON that are committed with the results.

Tables are sorted by the study's order of experiments, then by seed. Only `timing.csv` has wall-clock figures, and no
other file depends on it. Each module makes the tables of one subject.
"""

from collections.abc import Sequence
from pathlib import Path

from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.report.lineage import Lineage
from coopnet.report.runs import Run, RunResults, StudyInfo, read
from coopnet.report.tables import (
    accuracy,
    compute,
    distillation,
    diversity,
    growth,
    histories,
    merges,
    origins,
    overall,
    published,
    reliability,
    transfer,
    votes,
)
from coopnet.report.tables.rows import Tables

__all__ = ["StudyInfo", "build", "columns"]


def build(runs: Sequence[RunResults], study: StudyInfo, out: Path) -> None:
    """Write `out/*.csv` and `out/study.json` from the files of finished runs.

    Args:
        runs: every experiment and seed of the study, in any order.
        study: the study without its results.
        out: the folder of the tables, `results/<study>/tables`.

    Raises:
        CoopNetError: a run of the study is missing, unfinished or damaged; the message names it.
    """
    finished = _read_all(runs, study)
    for name, (columns, rows) in _tables(finished, study).items():
        files.write_rows(out / f"{name}.csv", rows, columns)
    files.write_json(out / "study.json", overall.describe(study, finished))


def columns() -> dict[str, Sequence[str]]:
    """The columns that each table has in every study; those of single branches depend on its networks."""
    empty = StudyInfo("", "", "", threads=1, device="cpu", experiments=())
    return {name: header for name, (header, _) in _tables([], empty).items()}


def _tables(runs: Sequence[Run], study: StudyInfo) -> Tables:
    lineage = Lineage(runs, study)
    subjects = (accuracy, transfer, growth, merges, diversity, votes, distillation, histories, origins)
    found = [subject.tables(runs, study, lineage) for subject in (*subjects, published, compute, reliability)]
    return {name: table for tables in found for name, table in tables.items()}


def _read_all(runs: Sequence[RunResults], study: StudyInfo) -> list[Run]:
    """All runs in the study's order; a planned run that is not among them is an error, never a gap."""
    folders = {(run.experiment, run.seed): run for run in runs}
    rows = {row["name"]: row["row"] for row in study.experiments}
    planned = [(row["name"], seed) for row in study.experiments for seed in sorted(row["seeds"])]
    if not planned:
        raise CoopNetError(f"study {study.name} has no runs to report; add an experiment with a seed")
    for experiment, seed in planned:
        if (experiment, seed) not in folders:
            raise CoopNetError(f"{experiment} seed {seed} is missing from the report; run that experiment first")
    return [read(folders[run], rows[run[0]]) for run in planned]
