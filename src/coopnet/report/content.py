"""The content of a report: its first screen and its sections, computed from a study's tables and its ledger alone.

The web page, the PDF and the Markdown lay out this one structure. A new topic is a module of `topics`, added to
`TOPICS`. A study that decides nothing, such as the demo, has a short report.
"""

from coopnet.report.document import Picture, Report, Section
from coopnet.report.drawing import Draw
from coopnet.report.frames import Tables
from coopnet.report.topics import (
    answer,
    calibration,
    claims,
    cost,
    curves,
    distillation,
    failed,
    growth,
    lineage,
    merging,
    method,
    one,
    provenance,
    published,
    results,
    transfer,
)

TOPICS = (
    *(failed, method, lineage, transfer, growth, merging, one, distillation, results),
    *(cost, calibration, published),
)
"""The sections in their order. The ledger, which links to them, and provenance follow."""

SHORT = (failed, method, lineage, transfer, results)
"""The sections of a study that decides nothing."""

DRAWN = (transfer, merging, one, cost, calibration, curves)
"""Topics with figures, besides the method's, which are drawn otherwise."""


def compose(tables: Tables) -> Report:
    """The whole report."""
    decides = answer.decides(tables)
    sections: list[Section] = [found for topic in (TOPICS if decides else SHORT) if (found := topic.section(tables))]
    ledger = claims.section(tables, {section.id: section.title for section in sections}) if decides else None
    sections += [*([ledger] if ledger else []), provenance.section(tables)]
    drawn = answer.overview(tables) if decides else None
    return Report(
        tables.study["name"],
        tables.study["title"],
        answer.run(tables),
        answer.answers(tables),
        drawn[0] if drawn else None,
        answer.sure(tables),
        answer.limits(tables),
        sections,
        list(method.REFERENCES.values()),
    )


def drawings(tables: Tables, report: Report) -> dict[str, Draw]:
    """Each figure of a report by name, not yet drawn."""
    known: dict[str, Draw] = {name: draw for name, (_, draw) in method.figures(tables).items()}
    for topic in DRAWN:
        known |= topic.figures(tables)
    if (overview := answer.overview(tables)) is not None:
        known["overview"] = overview[1]
    shown = [item.name for section in report.sections for item in section.items if isinstance(item, Picture)]
    return {name: known[name] for name in ([report.overview.name] if report.overview else []) + shown}
