"""What a study is: the parameters, the rows they resolve to, the plan of runs and their keys.

Pure and light: no torch, no results, so that a workflow engine can ask for it while it parses.
"""

from coopnet.study.planning import (
    FULL,
    Run,
    Study,
    check,
    checked_name,
    datasets,
    did_you_mean,
    imported_record,
    load,
    merge,
    names,
    plain,
    read_yaml,
    resolve,
    rows,
    run_key,
    scale,
)

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
