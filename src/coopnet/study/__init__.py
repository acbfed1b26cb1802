"""A study: its parameters, its rows, and the plan of runs and their keys.

This package imports no torch and reads no results, so a workflow engine can import it while it parses its rules.
"""

from coopnet.study.load import FULL, checked_name, dataset, datasets, load, names, read_yaml, rows
from coopnet.study.messages import check, did_you_mean
from coopnet.study.plan import Run, Study, imported_record, run_key
from coopnet.study.rows import flatten, merge, scale

__all__ = [
    "FULL",
    "Run",
    "Study",
    "check",
    "checked_name",
    "dataset",
    "datasets",
    "did_you_mean",
    "flatten",
    "imported_record",
    "load",
    "merge",
    "names",
    "read_yaml",
    "rows",
    "run_key",
    "scale",
]
