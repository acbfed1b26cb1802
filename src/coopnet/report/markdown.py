"""The report in two pages of Markdown, for a forge's web view, and the ledger as a table for other pages."""

import re
from collections.abc import Sequence

from coopnet.report.document import Report, Table
from coopnet.report.ledger import Claim
from coopnet.report.topics import claims as topic

MARKUP = re.compile(r"[\\`*<>&$~|]|\[(?![−+\d])|\](?=[(\[:])|(?<!\w)_|_(?!\w)")
"""What Markdown would read as more than a letter; _ between letters is one, and so are the brackets of an interval."""


TERMS = "Terms: [ways to grow](../../docs/growth.md), [intervals](../../docs/intervals.md)."
BLANK = "–\u00a0"
"""The sign of what was not run or not measured, and the space after it."""
LEGEND = (
    "✓ supported, ✗ contradicted, ? inconclusive, ! not decided, – not run. *Tested* verdicts rest on a p value, "
    "*counted* ones on what happened in these runs."
)


def escaped(text: str) -> str:
    """Text that shows as it is."""
    return MARKUP.sub(r"\\\g<0>", text)


def findings(report: Report) -> str:
    """The answers, a line each: what a README shows."""
    return "".join(f"- **{escaped(answer.about)}.** {escaped(answer.text)}\n" for answer in report.answers)


def report(report: Report) -> str:
    """The first screen of a report, its questions, and where the rest is."""
    parts = [
        f"# {escaped(report.title)}\n\n{escaped(report.run)} {TERMS}\n",
        f"## What was found\n\n{findings(report)}",
    ]
    if report.overview:
        # The findings stand right above, so the figure's own text, which lists them once more, is left out.
        alt = "Difference to the control, 95 % intervals; the sentences above say what was found"
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
        parts.append(
            f"## The ledger, by question\n\nClaims per question: {LEGEND} *Holm* counts the tested ✓ and ✗ that "
            "survive Holm’s correction.\n\n"
            f"| question | claims |\n| --- | --- |\n{''.join(lines)}"
        )
    sections = "".join(f"- {escaped(section.title)}\n" for section in report.sections)
    parts.append(
        "## The whole report\n\nEvery claim with its verdict is in [claims.md](claims.md). The page `index.html`, the "
        f"paper `report.pdf` and its tables in `appendix.pdf` have these sections:\n\n{sections}"
    )
    return "\n".join(parts)


def ledger(claims: Sequence[Claim]) -> str:
    """The ledger as a page of Markdown: number, claim with remarks, and the outcome for each score."""
    lines = [
        "# Every claim\n",
        f"The study’s findings are in [report.md](report.md). {LEGEND} *Also after Holm* and *not after Holm* say "
        "whether they survive Holm’s correction. An estimate is in percentage points, or in the unit named, over n "
        "seeds (of two groups, the smaller); *images*, for top-5: those whose top-5 turned right or wrong. Its "
        "interval is of 95 %, or of the level named. A claim of several parts shows its weakest part.\n",
        "| | claim | top-1, or decided once | top-5 |",
        "| --- | --- | --- | --- |",
    ]
    for claim in claims:
        number, text, *outcomes = topic.line(claim, {})[:-1]
        remarks = topic.remarks([one for one in claim.decisions if one.has_results])
        said = [
            ", ".join(filter(None, [cell.text.strip(BLANK), cell.detail])).replace(", [", " [") for cell in outcomes
        ]
        found = ["<br>".join(filter(None, said[place : place + 2])) for place in (0, 2)]
        about = "<br>".join([escaped(text.text), *map(escaped, remarks)])
        lines.append(f"| {escaped(number.text)} | {about} | {found[0]} | {found[1]} |")
    return "\n".join(lines) + "\n"
