"""The web page of a report: one file with style and figures inside, which loads nothing from anywhere."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from coopnet.reporting.document import Report

TEMPLATES = "coopnet.reporting"


def html(report: Report, figures: Path) -> str:
    """The page `index.html`, with the SVG files of `figures` inline."""

    def svg(name: str) -> Markup:
        return inline((figures / f"{name}.svg").read_text(encoding="utf-8"), name)

    return fill("index.html.j2", report=report, svg=svg)


def fill(template: str, **content: Any) -> str:
    """A page from its template, with the report's style inside."""
    return _environment().get_template(template).render(**content, style=_style())


def inline(svg: str, name: str) -> Markup:
    """An SVG file as an element of a page: without prolog and metadata, its ids prefixed so that figures share none."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    # Sized by the page, to the width of its column; the view box keeps the proportions.
    opening, rest = svg.split(">", 1)
    width = re.search(r'\bwidth="([\d.]+)pt"', opening)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    limit = f' style="max-width: {float(width.group(1)) * 1.55:.0f}px"' if width else ""
    return Markup(f'{opening} aria-hidden="true"{limit}>{rest}')


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(TEMPLATES, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _style() -> Markup:
    text = resources.files(TEMPLATES).joinpath("style.css").read_text(encoding="utf-8")
    return Markup(text)
