"""What every run was made with."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.wording import DOT

ALL = "all\u00a0runs"


def section(tables: Tables) -> Section:
    """The section `Provenance`."""
    items: list[Table | Picture] = [_environment(tables), _runs(tables), _shared(tables), _own(tables)]
    sentence = "Every number above is computed from the files of these runs."
    if all(run["device"].startswith("cpu") for run in tables.records_of_runs):
        sentence += " Settings and seed make each run again, bit for bit on the same kind of machine."
    return Section("provenance", "Provenance", [sentence], items)


ENVIRONMENT = {
    "data_digest": "Data, SHA-256",
    "device": "Device",
    "threads": "Threads per run",
    "libraries": "Libraries",
    "code": "Code",
    "numerics": "Numerics' source, SHA-256",
}


def _environment(tables: Tables) -> Table:
    """Each thing the runs were made with: once if they agree, else each value with its runs."""
    rows: list[list[Cell]] = []
    rules = []
    runs = tables.records_of_runs
    for column, label in ENVIRONMENT.items():
        rules.append(len(rows))
        values = list(dict.fromkeys(str(run[column]) for run in runs))
        for value in values:
            own = [run for run in runs if str(run[column]) == value]
            whose = ALL if len(values) == 1 else _whose(own)
            rows.append([Cell(label if value == values[0] else ""), Cell(value, tone="code"), Cell(whose)])
    columns = [
        Column("", numeric=False),
        Column("Value", numeric=False, wide=True),
        Column("Runs", numeric=False, wide=any(row[2].text != ALL for row in rows)),
    ]
    caption = "Data, machine and software of the runs, as each run recorded them."
    return Table("environment-table", caption, columns, rows, "provenance.csv", rules)


def _whose(runs: Sequence[Mapping[str, Any]]) -> str:
    """`one3 (seed 0, 1); one5 (seed 1)`."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run["experiment"], []).append(str(run["seed"]))
    return "; ".join(f"{name} (seed {', '.join(which)})" for name, which in seeds.items())


def _runs(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        *(Column(label) for label in ("Seed", "Parameters", "Epochs", "Epoch used")),
        Column("Run key", numeric=False),
        Column("Parents", numeric=False),
    ]
    rows: list[list[Cell]] = []
    rules: list[int] = []
    for run in tables.records_of_runs:
        first = not rules or rows[rules[-1]][0].text != run["experiment"]
        if first:
            rules.append(len(rows))
        used = run["epochs"] if math.isnan(run["selected_epoch"]) else int(run["selected_epoch"]) + 1
        rows.append(
            [
                Cell(run["experiment"] if first else "", tone="code"),
                Cell(str(run["seed"])),
                Cell(f"{run['parameters']:,}"),
                Cell(str(run["epochs"])),
                Cell("last" if used == run["epochs"] else str(used)),
                Cell(run["key"][:12], tone="code"),
                Cell(run["parents"] if isinstance(run["parents"], str) else "–"),
            ]
        )
    caption = (
        "Parameters counts the trainable numbers. The key is the hash (first 12 digits) of all that decides a run's "
        "result: settings, seed, data, parents' keys and the numerics' source."
    )
    return Table("runs-table", caption, columns, rows, "provenance.csv", rules, folded=True)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `training.lr` → text; lists and plain values as JSON without quotes."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _settings(tables: Tables) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Settings that most experiments have, and those in which each differs; lineage has its own table."""
    own = {
        row["name"]: flatten(
            {key: value for key, value in row["row"].items() if key not in ("about", "part", "parents", "seeds")}
        )
        for row in tables.ordered
    }
    usual = {}
    for key in dict.fromkeys(key for settings in own.values() for key in settings):
        value, times = Counter(settings[key] for settings in own.values() if key in settings).most_common(1)[0]
        if 2 * times > len(own):
            usual[key] = value
    return usual, {
        name: {key: value for key, value in settings.items() if usual.get(key) != value}
        for name, settings in own.items()
    }


def _shared(tables: Tables) -> Table:
    usual, _ = _settings(tables)
    groups: dict[str, list[str]] = {}
    for key, value in usual.items():
        section, _, name = key.rpartition(".")
        groups.setdefault(section, []).append(f"{name} = {value}")
    rows = [[Cell(section or "general"), Cell(DOT.join(values), tone="code")] for section, values in groups.items()]
    columns = [Column("Section", numeric=False), Column("Settings", numeric=False, wide=True)]
    caption = "The usual settings: those of more than half of the experiments."
    return Table("shared-table", caption, columns, rows, "study.json", folded=True)


def _own(tables: Tables) -> Table:
    _, own = _settings(tables)
    rows = [
        [
            Cell(name, tone="code"),
            Cell(DOT.join(f"{key} = {value}" for key, value in settings.items()) or "–", tone="code"),
        ]
        for name, settings in own.items()
    ]
    columns = [Column("Experiment", numeric=False), Column("Settings", numeric=False, wide=True)]
    caption = "Settings of each experiment that are not the usual ones."
    return Table("own-table", caption, columns, rows, "study.json", folded=True)
