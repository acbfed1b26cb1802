"""The web page of a report: one file with style, script, font and figures inside, which loads nothing from anywhere."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from coopnet.report.document import Picture, Report

TEMPLATES = "coopnet.report"


def html(report: Report, figures: Path) -> str:
    """The page `index.html`, with the SVG files of `figures` inline."""
    from coopnet.report import drawing  # imports matplotlib, which the page of timings does not need

    sheet = Sheet(drawing.VARIABLES)
    items = [item for section in report.sections for item in section.items]
    pictures = [item for item in [report.overview, *items] if isinstance(item, Picture)]
    sources = {item.name: (figures / f"{item.name}.svg").read_text(encoding="utf-8") for item in pictures}
    font = drawing.font_face(drawing.letters(sources.values()))
    svgs = {name: inline(svg, name, sheet) for name, svg in sources.items()}
    glossary = Glossary([term for section in report.sections if section.id == "method" for term, _ in section.terms])
    return fill("page.html.j2", font + sheet.rules(), report=report, svg=svgs.__getitem__, glossary=glossary)


def fill(template: str, rules: str = "", **content: Any) -> str:
    """A page from its template, with the report's style, script and further style `rules`, and a strict policy.

    The policy allows only the style and the script with these digests. Nothing else on the page can style, run, load or
    send anything, even if it got into the page unescaped.
    """
    style, script = _resource("style.css") + rules, _resource("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )
    text = _environment().get_template(template)
    return text.render(**content, style=Markup(style), script=Markup(script), policy=Markup(policy))


def _resource(name: str) -> str:
    return resources.files(TEMPLATES).joinpath("templates", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


class Glossary:
    """The defined words of a report. An entry with commas defines several words: `ECE, NLL`."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = {word: entry for entry in entries for word in entry.split(", ")}
        words = [
            f"[{word[0]}{word[0].upper()}]{re.escape(word[1:])}" if word[0].islower() else re.escape(word)
            for word in sorted(self._entries, key=len, reverse=True)
        ]
        self._word = re.compile(rf"(?<![\w-])({'|'.join(words) or '(?!)'})(?:e?s)?(?![\w-])")

    @staticmethod
    def anchor(entry: str) -> str:
        """The id of a definition."""
        return f"term-{re.sub(r'[^a-z0-9]+', '-', entry.lower()).strip('-')}"

    def first_uses(self) -> Callable[[str], list[tuple[str, str]]]:
        """A function that cuts texts into pieces, each with the id of its definition.

        Only the first use of each word in all texts given to the function has an id.
        """
        seen: set[str] = set()

        def cut(text: str) -> list[tuple[str, str]]:
            pieces, end = [], 0
            for found in self._word.finditer(text):
                entry = self._entries.get(found[1]) or self._entries[found[1][0].lower() + found[1][1:]]
                if entry not in seen:
                    seen.add(entry)
                    pieces += [(text[end : found.start()], ""), (found[0], self.anchor(entry))]
                    end = found.end()
            return [*pieces, (text[end:], "")]

        return cut


class Sheet:
    """Classes for the style attributes of figures, which the strict policy forbids; colours become variables."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._names: dict[str, str] = {}
        self._variables = variables

    def name(self, style: str) -> str:
        """The class with the declarations of a style attribute."""
        for colour, variable in self._variables.items():
            style = re.sub(re.escape(colour), f"var({variable})", style, flags=re.IGNORECASE)
        return self._names.setdefault(style, f"s{len(self._names)}")

    def rules(self) -> str:
        """All classes, as lines of a style sheet."""
        return "".join(f".{name} {{ {style} }}\n" for style, name in self._names.items())


def inline(svg: str, name: str, sheet: Sheet) -> Markup:
    """An SVG file as an element of a page, its ids prefixed so that figures share none, its style in `sheet`."""
    svg = svg[svg.index("<svg") :]
    for tag in ("metadata", "style"):
        svg = re.sub(rf"<{tag}\b.*?</{tag}>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    # Sized by the page, to the width of its column; the view box keeps the proportions.
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    svg = f'{opening} aria-hidden="true">{rest}'
    return Markup(re.sub(r'\bstyle="([^"]*)"', lambda found: f'class="{sheet.name(found[1])}"', svg))


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(TEMPLATES, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
