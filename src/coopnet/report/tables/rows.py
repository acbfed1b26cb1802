"""Rows of a table: grouped, and averaged over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopnet.report.runs import digits, mean, std

Row = dict[str, Any]
Tables = dict[str, tuple[Sequence[str], Iterable[Mapping[str, Any]]]]
"""Tables by name: the header and the rows of each."""


def groups(rows: Iterable[Row], keys: Sequence[str]) -> Iterable[tuple[Row, list[Row]]]:
    """Rows that agree in `keys`, in order of first appearance."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    for values, members in found.items():
        yield dict(zip(keys, values, strict=True)), members


def averaged(rows: Iterable[Row], keys: Sequence[str], columns: Sequence[str]) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of the mean ± std over seeds of every group, with n."""
    header = (*keys, "n", *(f"{column}_{suffix}" for column in columns for suffix in ("mean", "std")))
    table = [group | {"n": len(m)} | _statistics(m, columns) for group, m in groups(rows, keys)]
    return header, table


def difference(value: float | None, other: float | None) -> float | None:
    """`value` − `other` to 8 decimals, or None if either is missing.

    Means have ten digits, so a smaller difference is a rounding error and must not look like one of scores.
    """
    return None if value is None or other is None else round(value - other, 8) + 0.0


def _statistics(members: Sequence[Row], columns: Sequence[str]) -> Row:
    """`<column>_mean` and `<column>_std` (empty for a single value) of each column that has values."""
    statistics: Row = {}
    for column in columns:
        values = [row[column] for row in members if row.get(column) is not None]
        spread = std(values)
        statistics[f"{column}_mean"] = digits(mean(values)) if values else None
        statistics[f"{column}_std"] = None if spread is None else digits(spread)
    return statistics
