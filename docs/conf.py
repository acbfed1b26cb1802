"""How Sphinx makes the site: `make docs`. Pages are Markdown; the reference is generated, see `reference.py`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT / "src")]

import reference  # noqa: E402  (its folder was put on the path above)

from coopnet import __version__  # noqa: E402
from coopnet.report.page import Glossary  # noqa: E402

project = "CoopNet"
author = "the CoopNet authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"  # of docstrings, which are Markdown in this
highlight_language = "none"
smartquotes = False

myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "site": "{{path}}"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "CoopNet"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}

PUBLISHED = ("reports", "results/*/claims.json", "results/*/tables/*")
"""Files of the repository that are copied to the site: the committed reports, and the tables that they link to."""


def complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Insert the generated parts into a page, and point links to reports at the copies beside the site."""
    for key, generate in reference.PARTS.items():
        source[0] = re.sub(rf"^<!-- generated: {key} -->$", lambda _, made=generate: made(), source[0], flags=re.M)
    if name == "guarantees":
        source[0] = reference.promises(source[0])
    source[0] = re.sub(r"(?<!!)(\[[^]]*\]\()\.\./reports/", r"\1site:reports/", source[0])


COMMON = ("claim", "experiment", "phase", "record", "run", "seed", "split", "study")
"""Words of the glossary that pages also use in their everyday sense; their uses are not linked."""


def define(app: Sphinx, page: nodes.document) -> None:
    """Give each row of the glossary an id."""
    if app.env.docname == "glossary":
        for row in _rows(page):
            row["ids"].append(Glossary.anchor(row[0].astext()))


def _rows(glossary: nodes.document) -> list[nodes.row]:
    """The rows of the glossary below its heading."""
    return [row for body in glossary.findall(nodes.tbody) for row in body.findall(nodes.row)]


def link(app: Sphinx, page: nodes.document, name: str) -> None:
    """Link the first use of each word of the glossary in a page's paragraphs to its definition."""
    if name in ("glossary", "changelog", "notes"):
        return
    defined = [row[0].astext() for row in _rows(app.env.get_doctree("glossary"))]
    cut = Glossary([entry for entry in defined if entry not in COMMON]).first_uses()
    glossary = app.builder.get_relative_uri(name, "glossary")
    for paragraph in page.findall(nodes.paragraph):
        for text in [child for child in paragraph.children if isinstance(child, nodes.Text)]:
            pieces = [
                nodes.reference("", piece, internal=True, refuri=f"{glossary}#{to}", classes=["word"])
                if to
                else nodes.Text(piece)
                for piece, to in cut(text.astext())
            ]
            paragraph.replace(text, pieces)


def publish(app: Sphinx, failure: Exception | None) -> None:
    """Copy the committed reports and their tables beside the pages, if this is a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z", "--", *PUBLISHED], cwd=ROOT, capture_output=True, text=True)
    for path in filter(None, listed.stdout.split("\0")):
        target = Path(app.outdir) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)


def setup(app: Sphinx) -> None:
    """Register these functions with Sphinx."""
    app.connect("source-read", complete)
    app.connect("doctree-read", define)
    app.connect("doctree-resolved", link)
    app.connect("build-finished", publish)
