"""Published figures beside this study's: `published`, one row per figure, with what differs between the two protocols.

A plain ensemble is not trained itself, so it has the protocol of its members.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from coopnet.files.errors import CoopNetError
from coopnet.report.lineage import Lineage
from coopnet.report.published import PROTOCOL, Figure, Published
from coopnet.report.runs import Run, StudyInfo, digits, mean, std
from coopnet.report.tables.overall import backbone, training_images
from coopnet.report.tables.rows import Row, Tables, difference

COLUMNS = (
    *("id", "work", "kind", "remark", "certainty", "about", "note"),
    *("experiment", "model", "split", "metric", "state"),
    *("published", "unit", "theirs", "theirs_spread", "ours", "ours_std", "n", "ours_minus_theirs"),
    *(f"{name}_{side}" for name in PROTOCOL for side in ("theirs", "ours")),
    *("differs", "unsaid", "over", "over_value", "gain", "claimed"),
)


def tables(runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Tables:
    """Table `published`."""
    return {"published": (COLUMNS, [_row(entry, runs, study, lineage) for entry in study.published])}


def _row(entry: Published, runs: Sequence[Run], study: StudyInfo, lineage: Lineage) -> Row:
    figure = entry.figure
    own = [run for run in runs if run.experiment == figure.experiment]
    values = _values(entry, own)
    protocol = _protocol(_theirs(figure), _ours(own, lineage) if values else {})
    theirs, ours = digits(mean(figure.accuracy)), digits(mean(values)) if values else None
    alike = "dataset" not in f"{protocol['differs']}; {protocol['unsaid']}".split("; ")
    return {
        "id": entry.id,
        "work": entry.source.work,
        "kind": entry.source.kind,
        "remark": entry.source.remark,
        **{key: getattr(figure, key) for key in ("certainty", "about", "note", "experiment", "model")},
        **{key: getattr(figure, key) for key in ("split", "metric", "unit")},
        "state": _state(figure, own, values, study),
        "published": "; ".join(f"{value:g}" for value in figure.value),
        "theirs": theirs,
        "theirs_spread": _deviation(figure.accuracy) if figure.spread is None else figure.spread,
        "ours": ours,
        "ours_std": _deviation(values),
        "n": len(values),
        "ours_minus_theirs": difference(ours, theirs) if alike else None,
        **protocol,
        **_gain(entry),
    }


def _deviation(values: Sequence[float]) -> float | None:
    spread = std(values)
    return None if spread is None else digits(spread)


def _state(figure: Figure, own: Sequence[Run], values: Sequence[float], study: StudyInfo) -> str:
    """The state of our measurement; a split without images is not measured."""
    if figure.experiment is None:
        return "no row"
    if not own:
        return "failed" if any(row["name"] == figure.experiment for row in study.experiments) else "not run"
    return "measured" if values else "not measured"


def _values(entry: Published, own: Sequence[Run]) -> list[float]:
    """Our score of each run."""
    figure, values = entry.figure, []
    for run in own:
        block = run.metrics["final"].get(figure.split)
        if block is None or figure.model is None:
            continue
        models = run.models(block) | {key: block[key] for key in ("mean_probabilities",) if key in block}
        if figure.model not in models:
            raise CoopNetError(
                f"figures.yaml: {entry.id}.model: {figure.experiment} has no {figure.model} "
                f"(known: {', '.join(sorted(models))})"
            )
        values.append(models[figure.model][figure.metric])
    return values


def _theirs(figure: Figure) -> dict[str, str | None]:
    """Their protocol as text; None if unknown."""
    numbers = {name: getattr(figure, name) for name in ("epochs", "training_images", "runs")}
    written = {name: None if number is None else str(number) for name, number in numbers.items()}
    chosen = f" on {figure.chosen_on}" if figure.epoch == "best" and figure.chosen_on else ""
    return written | {
        "dataset": figure.dataset,
        "network": backbone(figure.network.model_dump()) if figure.network else None,
        "epoch": figure.epoch and figure.epoch + chosen,
    }


def _ours(own: Sequence[Run], lineage: Lineage) -> dict[str, str]:
    """Our protocol as text; if the members of an ensemble differ in a value, all values are listed."""
    members = [member for run in own for member in (lineage.origins(run) if run.plain_ensemble else [run])]
    each = [_measured(member.row) for member in members]
    several = {name: " and ".join(dict.fromkeys(one[name] for one in each)) for name in each[0]}
    return several | {"runs": str(len(own))}


def _measured(row: Mapping[str, Any]) -> dict[str, str]:
    selection = {"last": "last", "best_validation": "best on validation"}[row["training"]["selection"]]
    return {
        "dataset": row["data"]["dataset"],
        "network": backbone(row["model"]),
        "epochs": str(row["training"]["epochs"]),
        "training_images": str(training_images(row["data"])),
        "epoch": selection,
    }


def _protocol(theirs: Mapping[str, str | None], ours: Mapping[str, str]) -> Row:
    """Both protocols side by side, the parts in which they differ, and the parts that the source does not state."""
    pairs: Row = {f"{name}_theirs": theirs[name] for name in PROTOCOL}
    pairs |= {f"{name}_ours": ours.get(name) for name in PROTOCOL}
    differs = [name for name in PROTOCOL if ours and theirs[name] and theirs[name] != ours[name]]
    unsaid = [name for name in PROTOCOL if theirs[name] is None]
    return pairs | {"differs": "; ".join(differs), "unsaid": "; ".join(unsaid)}


def _gain(entry: Published) -> Row:
    """The gain computed from the published figures, and the gain claimed for them."""
    gain, over = entry.figure.gain, entry.over
    if gain is None or over is None:
        return {}
    before, after = (digits(mean(figure.accuracy)) for figure in (over, entry.figure))
    return {"over": over.about, "over_value": before, "gain": difference(after, before), "claimed": gain.claimed}
