"""Results in brief: the sentences of the other sections, and the first overview."""

from coopnet.report.document import Section
from coopnet.report.frames import Tables
from coopnet.report.sections import accuracy, distillation, diversity, growth, merging, step0, voting

SOURCES = (accuracy, step0, growth, merging, diversity, voting, distillation)


def section(tables: Tables) -> Section:
    """The summary."""
    sentences = [sentence for source in SOURCES for sentence in source.brief(tables)]
    return Section("brief", "Results in brief", sentences, [accuracy.overview(tables, next(iter(tables.parts)))])
