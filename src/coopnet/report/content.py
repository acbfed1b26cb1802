"""What a report says: sections of sentences, tables and figures, computed from a study's tables.

The web page and the PDF both lay out this one structure. A new section is a module of `sections`, added to `SECTIONS`;
the ledger, which links to the others, opens the report, after what failed.
No sentence states a result in advance: each is filled in from the tables.
"""

import math

from coopnet.report.document import Report
from coopnet.report.frames import Tables
from coopnet.report.sections import (
    accuracy,
    brief,
    calibration,
    claims,
    compute,
    distillation,
    diversity,
    experiments,
    failed,
    growth,
    learning,
    merging,
    provenance,
    published,
    step0,
    voting,
)
from coopnet.report.sections.cells import FEW
from coopnet.report.wording import DOT, count, listing, number, span

SECTIONS = (
    brief,
    accuracy,
    calibration,
    step0,
    growth,
    merging,
    diversity,
    voting,
    distillation,
    published,
    compute,
    learning,
    experiments,
    provenance,
)

PUBLISHED_EPOCHS = 300
"""Epochs of the published training from scratch (ONE paper, section 4); shorter studies say that they are."""


def compose(tables: Tables) -> Report:
    """The whole report."""
    study = tables.study
    results = [made for module in SECTIONS if (made := module.section(tables))]
    ledger = claims.section(tables, {section.id: section.title for section in results})
    sections = [ledger, *results] if ledger else results
    if lost := failed.section(tables):
        sections = [lost, *(failed.completed(section, tables) for section in sections)]
    return Report(study["name"], study["title"], study["description"], facts(tables), limits(tables), sections)


def facts(tables: Tables) -> list[tuple[str, str]]:
    """The scale of the study, one plain figure each."""
    rows = tables.experiments
    scratch = [row["epochs"] for row in rows if row["start"] == "random"]
    tuned = [row["epochs"] for row in rows if row["start"] != "random" and row["epochs"]]
    images = [row["images"] for row in rows]
    validation = [i["validation"] for i in images]
    seeds = [len(row["seeds"]) for row in rows]
    pairs = [
        ("Dataset", listing(tables.by_dataset(tables.names))),
        ("Network", DOT.join(dict.fromkeys(row["backbone"] for row in rows))),
        ("Training images", span(i["train"] for i in images)),
        ("Validation images", (span(validation) if any(validation) else "none held out")),
        ("Test images", span(i["test"] for i in images)),
        ("Epochs from scratch", span(scratch) if scratch else ""),
        ("Epochs from parents", span(tuned) if tuned else ""),
        ("Experiments", f"{len(rows)} ({count(tables.study['runs'], 'run')})"),
        ("Without results", count(len(tables.losses), "run") if tables.losses else ""),
        ("Seeds per experiment", span(seeds)),
    ]
    return [(name, value) for name, value in pairs if value]


def limits(tables: Tables) -> list[str]:
    """What a study of this scale cannot show, and how finely its test images measure."""
    rows = tables.experiments
    sentences = [f"{failed.summary(tables)} Why, and what is missing, stands below."] if tables.losses else []
    longest = max(row["epochs"] for row in rows)
    if longest < PUBLISHED_EPOCHS:
        sentences.append(
            f"Networks were trained for at most {count(longest, 'epoch')}, against {PUBLISHED_EPOCHS} in the published "
            "study: nothing here says how accurate fully trained networks would be."
        )
    sentences.append(_sampling_error(tables))
    single = [row["name"] for row in rows if len(row["seeds"]) == 1]
    if len(single) == len(rows):
        sentences.append(
            "Every experiment was run with one seed: a difference between two numbers may be chance, and no "
            "uncertainty can be given."
        )
    elif single:
        which = listing(single) if len(single) <= FEW else f"{len(single)} of {len(rows)} experiments"
        sentences.append(f"With one seed only, and so without an uncertainty: {which}.")
    few = max(len(row["seeds"]) for row in rows)
    if 1 < few < 3:
        sentences.append(f"{few} seeds give a rough idea of the spread, and no reliable interval.")
    return sentences


def _sampling_error(tables: Tables) -> str:
    """How far an accuracy would move with other test images: the binomial standard error, at the median accuracy."""
    accuracies = sorted(tables.final("ensemble").values())
    share = accuracies[len(accuracies) // 2] / 100
    images = min(row["images"]["test"] for row in tables.experiments)
    error = 100 * math.sqrt(share * (1 - share) / images)
    return (
        f"With {count(images, 'test image')}, an accuracy of {number(100 * share)} % has a standard error of "
        f"{number(error)} points from the choice of images alone."
    )
