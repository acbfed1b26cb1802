"""A summary of the runs' provenance, and the commands that reproduce a number."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables, dataset
from coopnet.report.runs import digits
from coopnet.report.topics import cells
from coopnet.report.wording import DOT, count, listing, span
from coopnet.study import flatten

SHORT = 12
"""Number of digits of a digest that are shown."""
CLASSES = 20
"""Number of class names that are shown for a user's own data."""


def section(tables: Tables) -> Section:
    """The card, and a record per experiment."""
    runs = tables.records_of_runs
    sentence = "Every number above is computed from the files of these runs."
    if all(run["device"].startswith("cpu") for run in runs):
        sentence += " Settings and seed make each run again, bit for bit on the same kind of machine."
    return Section("provenance", "Provenance", [sentence], [_card(tables), _records(tables)], _again(tables))


def _again(tables: Tables) -> list[tuple[str, str]]:
    """Commands that reproduce a number."""
    name = tables.study["name"]
    row = next((row for row in tables.ordered if row["parents"]), tables.ordered[0])
    limits = [("first, on a CPU with AVX512", "export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2")]
    narrow = any(
        "capability AVX2" in run["device"] for run in tables.records_of_runs if run["experiment"] == row["name"]
    )
    return [
        *(limits if narrow else []),
        ("one run", f"coopnet train {name} {row['name']} {row['seeds'][0]}"),
        ("all runs, tables, ledger and report", f"snakemake --cores 2 --config study={name}"),
        ("this report from its tables alone", f"coopnet report {name}"),
    ]


def _card(tables: Tables) -> Table:
    runs = tables.records_of_runs
    codes = Counter(str(run["code"]) for run in runs)
    digests = {run["dataset"]: str(run["data_digest"]) for run in runs}
    machines = _each(_machine(str(run["device"])) for run in runs)
    facts = [
        ("Runs", f"{count(len(runs), 'run')} of {count(len(tables.experiments), 'experiment')}"),
        ("Machines", machines),
        ("Threads per run", span(int(run["threads"]) for run in runs if run["threads"] == run["threads"])),
        ("Libraries", _each(_libraries(str(run["libraries"])) for run in runs)),
        ("Source", _each(_code(code) for code in codes.elements())),
        ("Numerics’ source, SHA-256", _each(str(run["numerics"])[:SHORT] + "…" for run in runs)),
        *((f"Data, {name}", DOT.join(_cut(part) for part in digest.split("; "))) for name, digest in digests.items()),
    ]
    classes = {dataset(row): row["class_names"] for row in tables.experiments if row.get("class_names")}
    facts += [(f"Classes, {name}", _named(words)) for name, words in classes.items()]
    columns = [Column("", numeric=False), Column("Value", numeric=False, wide=True)]
    rows = [Row([Cell(label), Cell(value)]) for label, value in facts]
    caption = "Provenance. Digests are cut short; the file has every run in full."
    caption += " A limited CPU was kept from instructions that it has." * (", limited" in machines)
    return Table("provenance-table", caption, columns, rows, "provenance.csv")


def _named(classes: Sequence[str]) -> str:
    """The names of the first classes, in the order of their labels, and the number of others."""
    more = len(classes) - CLASSES
    return ", ".join(classes[:CLASSES]) + (f" and {more} more" if more > 0 else "")


def _each(values: Any) -> str:
    """The four most frequent values, each with its number of runs if the runs differ."""
    found = Counter(values).most_common()
    if len(found) == 1:
        return str(found[0][0])
    words = [f"{value} ({count(times, 'run')})" for value, times in found[:4]]
    return "; ".join(words) + (f"; {len(found) - 4} more" if len(found) > 4 else "")


def _machine(device: str) -> str:
    """Kind and name, with the instructions that PyTorch used or the GPU's capability: `cpu: AMD EPYC, AVX2`.

    A CPU is *limited* if it was kept from instructions that it has.
    """
    name, *more = device.split("; ")
    known = dict(part.partition(" ")[::2] for part in more)
    capability = known.get("capability", "")
    limited = "limits" in known or (capability == "AVX2" and "avx512f" in known.get("instructions", ""))
    return ", ".join(filter(None, [name, capability, "limited" * limited]))


def _libraries(text: str) -> str:
    """The libraries on which a result depends most."""
    known = [part for part in text.split("; ") if part.split(" ")[0] in ("python", "torch", "numpy")]
    return ", ".join(known) or text


def _code(text: str) -> str:
    """`0.1.0, commit c87966b27174…`."""
    head, _, commit = text.partition("commit ")
    digest, _, more = commit.partition(" ")
    short = digest[:SHORT] + "…" if len(digest) > SHORT else digest
    return f"{head}commit {short}{' ' + more if more else ''}" if commit else text


def _cut(text: str) -> str:
    name, _, digest = text.rpartition(" ")
    return f"{name} {digest[:SHORT]}…"


def _records(tables: Tables) -> Table:
    columns = [
        Column("Experiment", numeric=False),
        Column("Seeds", numeric=False),
        Column("Parents", numeric=False, wide=True),
        Column("Run keys", numeric=False, wide=True),
        Column("Settings that are not the usual ones", numeric=False, wide=True),
    ]
    usual, own = _settings(tables)
    rows = []
    for row in tables.ordered:
        runs = [run for run in tables.records_of_runs if run["experiment"] == row["name"]]
        rows.append(
            Row(
                [
                    Cell(row["name"], tone="code", link=cells.anchor(row["name"])),
                    Cell(_seeds(row["seeds"])),
                    Cell("", links=[(parent, cells.anchor(parent)) for parent in dict.fromkeys(row["parents"])]),
                    Cell(", ".join(str(run["key"])[:8] for run in runs), tone="code"),
                    Cell(DOT.join(f"{key} = {value}" for key, value in own[row["name"]].items()) or "–", tone="code"),
                ],
                f"record-{row['name']}",
            )
        )
    shared = "; ".join(f"{key} = {value}" for key, value in usual.items())
    caption = (
        "Records of the runs. A key is the hash (first 8 digits) of all that decides a run’s result: settings, seed, "
        f"data, parents’ keys and the numerics’ source. Usual settings: {shared}."
    )
    title = "Records of the runs, with their settings"
    return Table("records-table", caption, columns, rows, "provenance.csv", title=title, where="appendix")


def _seeds(seeds: Sequence[int]) -> str:
    """`0, 2`, and `0 to 8` if none is left out."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return listing(str(seed) for seed in seeds)


def _as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as `training.lr` → text; lists and plain values as JSON without quotes."""

    def written(value: Any) -> str:
        # Lengths that were scaled, such as 5.333335999999999 epochs, are not exact in binary.
        rounded = json.loads(json.dumps(value), parse_float=lambda text: digits(float(text)))
        return json.dumps(rounded, ensure_ascii=False)

    return {key: value if isinstance(value, str) else written(value) for key, value in flatten(settings).items()}


def _settings(tables: Tables) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Settings that most experiments have, and those in which each differs; lineage has its own table."""
    own = {
        row["name"]: _as_text(
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
