"""The web page of a report: one file with style and figures inside, which loads nothing from anywhere."""

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from coopnet.report.document import Picture, Report

TEMPLATES = "coopnet.report"


def html(report: Report, figures: Path) -> str:
    """The page `index.html`, with the SVG files of `figures` inline."""
    sheet = Sheet()
    names = [item.name for section in report.sections for item in section.items if isinstance(item, Picture)]
    svgs = {name: inline((figures / f"{name}.svg").read_text(encoding="utf-8"), name, sheet) for name in names}
    return fill("index.html.j2", sheet.rules(), report=report, svg=svgs.__getitem__)


def fill(template: str, rules: str = "", **content: Any) -> str:
    """A page from its template, with the report's style and further `rules` inside, and a policy that allows no more.

    The policy knows the style by its digest. Nothing else on the page can style, run, load or send anything, even if
    it got into the page unescaped.
    """
    style = resources.files(TEMPLATES).joinpath("style.css").read_text(encoding="utf-8") + rules
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(**content, style=Markup(style), policy=Markup(policy))


class Sheet:
    """Classes for the style attributes of figures, which a strict policy forbids."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, style: str) -> str:
        """The class that stands for the declarations of a style attribute."""
        return self._names.setdefault(style, f"s{len(self._names)}")

    def rules(self) -> str:
        """All classes, as lines of a style sheet."""
        return "".join(f".{name} {{ {style} }}\n" for style, name in self._names.items())


def inline(svg: str, name: str, sheet: Sheet) -> Markup:
    """An SVG file as an element of a page, its ids prefixed so that figures share none, its style in `sheet`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)  # what text says that is drawn as paths
    svg = re.sub(r"<style\b.*?</style>\s*", "", svg, flags=re.DOTALL)  # the same in all; it is in style.css
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    # Sized by the page, to the width of its column; the view box keeps the proportions.
    opening, rest = svg.split(">", 1)
    width = re.search(r'\bwidth="([\d.]+)pt"', opening)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    limit = f' style="max-width: {float(width.group(1)) * 1.55:.0f}px"' if width else ""
    svg = f'{opening} aria-hidden="true"{limit}>{rest}'
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
