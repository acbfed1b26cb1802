"""Descriptions of the starts for the report."""

from collections.abc import Mapping
from typing import Any

GROWTH = {
    "zero_pad": "new branches fresh, gate rows zero (published code)",
    "zero_output": "as zero_pad, new classifiers zero too (published proof)",
    "masked": "new branches fresh, switched off by log-prior −∞",
    "split": "new branches are copies that share their donors' weight",
    "continue": "the parent as it is, trained further",
    "imported": "an imported checkpoint",
}
TRUNKS = {
    "first": "branches on the first network's trunk",
    "mean": "branches on the mean of the trunks",
    "matched": "branches on the mean of the trunks, channels matched first",
    "refit": "branches refitted to the first network's trunk; BatchNorm re-estimated",
}
"""What a merge does with the trunks of its parents."""


def words(row: Mapping[str, Any]) -> str:
    """What a row's start does to the weights, with the settings that distinguish rows of the same start.

    Args:
        row: an experiment's settings, with `start`, `model` and `training`.
    """
    start = row["start"]
    kind = start["kind"]
    if is_plain_ensemble(row):
        return f"plain ensemble of {row['model']['branches']} networks"
    if kind == "merge":
        parts = [TRUNKS.get(start["trunk"], start["trunk"])]
        parts += ["BatchNorm re-estimated"] if start.get("reestimate") and start["trunk"] != "refit" else []
        return "; ".join(parts + _gate_rows(start))
    if kind == "combine":
        return "; ".join(["each network keeps its trunk, under one gate", *_gate_rows(start)])
    if kind == "masked" and start.get("opens") is False:
        return "new branches fresh, always without weight in the ensemble (log-prior −∞), but trained"
    noise = start.get("noise")
    return GROWTH.get(kind, kind) + ("" if noise is None else f"; noise {noise:g}")


def _gate_rows(start: Mapping[str, Any]) -> list[str]:
    return ["gate rows of the parents"] if start.get("gate_rows") == "parents" else []


def is_plain_ensemble(row: Mapping[str, Any]) -> bool:
    """Whether a row averages the logits of trained networks, without training of its own."""
    return bool(row["start"]["kind"] == "combine" and row["model"]["gate"] == "mean" and not row["training"]["epochs"])
