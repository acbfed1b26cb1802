"""What a study is: the parameters, the rows they resolve to, the plan of runs and their keys.

Pure and light: no torch, no results, so that a workflow engine can ask for it while it parses.
"""

from coopnet.study.load import FULL, checked_name, datasets, load, names, plain, read_yaml, rows
from coopnet.study.messages import check, did_you_mean
from coopnet.study.plan import Run, Study, imported_record, run_key
from coopnet.study.rows import merge, resolve, scale

__all__ = [
    "FULL",
    "Run",
    "Study",
    "check",
    "checked_name",
    "datasets",
    "did_you_mean",
    "imported_record",
    "load",
    "merge",
    "names",
    "plain",
    "read_yaml",
    "resolve",
    "rows",
    "run_key",
    "scale",
]
