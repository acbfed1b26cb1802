"""`coopnet answer`: print the findings of a study, as on the first screen of its report."""

import re

from coopnet.files.errors import CoopNetError
from coopnet.runs.workspace import Workspace

FOUND = re.compile(r"- \*\*(.*?)\*\* (.*)")
"""A finding in `report.md`: the question and its answer."""


def answer(workspace: Workspace, name: str) -> None:
    """Print the findings and the path of the page.

    Raises:
        CoopNetError: there is no report.
    """
    folder = workspace.report(name)
    for question, found in findings(workspace, name):
        print(f"{question} {found}")
    print(f"The report: {folder / 'index.html'}, and as a paper {folder / 'report.pdf'}")


def findings(workspace: Workspace, name: str) -> list[tuple[str, str]]:
    """Question and answer of each finding.

    Raises:
        CoopNetError: there is no report.
    """
    path = workspace.report(name) / "report.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise CoopNetError(
            f"{path} is missing; run `snakemake --cores N --config study={name}` to make the whole study, or "
            f"`coopnet report {name}` if its tables exist"
        ) from None
    lines = text.partition("## What was found")[2].partition("\n## ")[0]
    return [(_plain(about), _plain(found)) for about, found in FOUND.findall(lines)]


def _plain(text: str) -> str:
    """Markdown without its backslashes."""
    return re.sub(r"\\(.)", r"\1", text)
