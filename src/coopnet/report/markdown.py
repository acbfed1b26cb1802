"""The report in two pages of Markdown, for a forge's web view, and the ledger as a table for other pages."""

import re
from collections.abc import Sequence

from coopnet.report.document import Report, Table
from coopnet.report.ledger import Claim
from coopnet.report.topics import claims as topic

MARKUP = re.compile(r"[\\`*\[\]<>&$~|]|(?<!\w)_|_(?!\w)")
"""What Markdown would read as more than a letter; between letters, _ is one."""


def escaped(text: str) -> str:
    """Text that shows as it is."""
    return MARKUP.sub(r"\\\g<0>", text)


def findings(report: Report) -> str:
    """The answers, a line each: what a README shows."""
    return "".join(f"- **{escaped(answer.about)}.** {escaped(answer.text)}\n" for answer in report.answers)


def report(report: Report) -> str:
    """The first screen of a report, its questions, and where the rest is."""
    parts = [f"# {escaped(report.title)}\n\n{escaped(report.run)}\n", f"## What was found\n\n{findings(report)}"]
    if report.overview:
        alt = escaped(report.overview.alt)
        parts.append(f"![{alt}](figures/overview.png)\n\n{escaped(report.overview.caption)}\n")
    for title, sentences in (("How sure", report.sure), ("What this scale cannot show", report.limits)):
        if sentences:
            parts.append(f"## {title}\n\n" + "".join(f"- {escaped(sentence)}\n" for sentence in sentences))
    questions = [
        item
        for section in report.sections
        for item in section.items
        if isinstance(item, Table) and item.where == "page"
    ]
    if questions:
        lines = [f"| {escaped(item.title)} | {' '.join(word for word, _ in item.counts)} |\n" for item in questions]
        legend = (
            "Claims per question: ✓ supported, ✗ contradicted, ? inconclusive, ! not decided, – not run. *Tested* "
            "verdicts rest on a p value, *counted* ones on what happened in these runs. *Holm* counts the tested ✓ and "
            "✗ that survive Holm’s correction over the whole ledger."
        )
        parts.append(
            f"## The ledger, by question\n\n{legend}\n\n| question | claims |\n| --- | --- |\n{''.join(lines)}"
        )
    sections = "".join(f"- {escaped(section.title)}\n" for section in report.sections)
    parts.append(
        "## The whole report\n\nEvery claim with its verdict is in [claims.md](claims.md). The page `index.html`, the "
        f"paper `report.pdf` and its tables in `appendix.pdf` have these sections:\n\n{sections}"
    )
    return "\n".join(parts)


def ledger(claims: Sequence[Claim]) -> str:
    """The ledger as a table in Markdown: number, claim, and the outcome for each score."""
    lines = ["| | claim | top-1, or decided once | top-5 |", "| --- | --- | --- | --- |"]
    for claim in claims:
        cells = topic.line(claim, {})
        number, text, *outcomes = (cell.text for cell in cells[:-1])
        details = [cell.detail for cell in cells[2:-1]]
        verdict, estimate, fifth, another = (
            " ".join(filter(None, [said, detail])) for said, detail in zip(outcomes, details, strict=True)
        )
        shown = [escaped(number), escaped(text), f"{verdict} {estimate}", f"{fifth} {another}"]
        lines.append(f"| {' | '.join(cell.strip(' –') for cell in shown)} |")
    return "\n".join(lines) + "\n"
