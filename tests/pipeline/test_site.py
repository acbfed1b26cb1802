"""The documentation site as a reader sees it: links, the generated reference, sizes, and its layout in a browser."""

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
import typer
import yaml

import coopnet
from conftest import ROOT
from coopnet import study
from coopnet.cli import app
from test_pages import CHROMIUM, QUIET

sys.path.insert(0, str(ROOT / "docs"))

import reference  # in the folder of the pages

browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the site is not tried in a browser")


def build(folder: Path) -> Path:
    """Build the site like `make docs`."""
    command = [str(Path(sys.executable).parent / "sphinx-build"), "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [*command, "-d", folder / "doctrees", ROOT / "docs", folder / "site"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    return build(tmp_path_factory.mktemp("docs"))


class Page(HTMLParser):
    """Ids and links of a page, and everything that it loads by itself."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "src" in given or (tag == "link" and "href" in given):
            self.loaded.append(given.get("src") or given["href"])


def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site and of the reports beside it."""
    return {path.resolve(): Page(path) for path in site.rglob("*.html")}


# Links ---------------------------------------------------------------------------------------------------------------


def test_every_link_leads_somewhere(site: Path) -> None:
    """Files and anchors within the site exist, including those of the published reports and their tables."""
    found = pages(site)
    assert (site / "reports" / "mini" / "index.html").resolve() in found
    dead = []
    for path, page in found.items():
        for link in page.links:
            if re.match(r"(https?|mailto|data):", link):
                continue
            place, _, anchor = unquote(link).partition("#")
            target = (path.parent / place).resolve() if place else path
            if not target.is_file() or (anchor and target in found and anchor not in found[target].ids):
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_the_first_use_of_a_word_leads_to_the_glossary(site: Path) -> None:
    """Each page links a word of the glossary once, and words that are also everyday English never."""
    rows = re.findall(r'<tr [^>]*id="(term-[a-z0-9-]+)"', (site / "glossary.html").read_text(encoding="utf-8"))
    defined = set(rows)
    assert len(rows) == len(defined)
    assert {"term-trunk", "term-continued-training-control", "term-run"} <= defined
    used: set[str] = set()
    for path, page in pages(site).items():
        found = [link.partition("#")[2] for link in page.links if "glossary.html#term-" in link]
        assert len(found) == len(set(found)), path.name
        used |= set(found)
    assert {"term-trunk", "term-gate", "term-run-store"} <= used <= defined - {"term-run", "term-record"}


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    """There is no script, style, font or image of another host, so the site works offline."""
    for path, page in pages(site).items():
        assert [one for one in page.loaded if re.match(r"(https?:)?//", one)] == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_two_builds_are_the_same_bytes(site: Path, tmp_path: Path) -> None:
    """Every file of the site is the same, including the search index."""
    again = build(tmp_path)
    files = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    assert [str(path) for path in files if (site / path).read_bytes() != (again / path).read_bytes()] == []


# The reference -------------------------------------------------------------------------------------------------------


def test_the_api_is_all_that_the_package_offers(site: Path) -> None:
    """Each public name has an entry with a text."""
    page = Page(site / "api.html")
    names = {name for name in coopnet.__all__ if name != "__version__"}
    assert {one.removeprefix("coopnet.") for one in page.ids if re.fullmatch(r"coopnet\.\w+", one)} == names


def test_the_reference_has_every_command_and_option(site: Path) -> None:
    """Each command has a heading, and each of its arguments and options a row with its meaning."""
    text = html.unescape(re.sub(r"<[^>]*>", "", (site / "commands.html").read_text(encoding="utf-8")))

    def visit(group: Any, name: str) -> None:
        for word, command in group.commands.items():
            assert f"{name} {word}" in text
            if hasattr(command, "commands"):
                visit(command, f"{name} {word}")
                continue
            for one in command.params:
                assert one.opts[0].startswith("-") is False or one.opts[0] in text

    visit(typer.main.get_command(app), "coopnet")
    rows = [line for line in reference.commands().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if not row.rstrip(" |").partition("` |")[2].strip()] == []


def test_the_reference_has_every_key_of_the_settings() -> None:
    """Each key of each section has a row with its meaning."""
    text = reference.parameters()
    for models in reference.MODELS.values():
        for model in models:
            for name, field in model.model_fields.items():
                if name != "kind":
                    assert field.description, f"{model.__name__}.{name}"
                    assert f"| `{name}` |" in text


# Schemas for editors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.SCHEMAS)
def test_the_committed_schema_is_that_of_the_settings(name: str) -> None:
    """Otherwise run `make schemas`."""
    assert (ROOT / name).read_text(encoding="utf-8") == reference.written(name)


def validator(name: str) -> Any:
    """A validator with a committed schema."""
    schema = json.loads((ROOT / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", ["params.yaml", *(f"studies/{p.name}" for p in (ROOT / "studies").glob("*.yaml"))])
def test_what_is_committed_fits_its_schema(path: str) -> None:
    """The study and its overlays are valid; each names the schema in its first line, for the editor."""
    if path == "studies/dvc.yaml":  # DVC's own
        return
    name = "params.schema.json" if path == "params.yaml" else "studies/overlay.schema.json"
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={Path(name).name}"
    assert [error.message for error in validator(name).iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seeds": []}, "[]"),
        ({"sedes": [1]}, "sedes"),
        ({"experiments": {"one": {"about": "x", "modle": {}}}}, "modle"),
        ({"experiments": {"one": {"model": {"branches": 0}}}}, "0"),
        ({"experiments": {"one": {"start": {"kind": "splitt"}}}}, "splitt"),
        ({"defaults": {"training": {"optimizer": {"lr": -1}}}}, "-1"),
        ({"experiments": {"one": {"data": {"images": 5}}}}, "images"),
    ],
)
def test_an_editor_notices_what_the_settings_refuse(change: dict[str, Any], what: str) -> None:
    """Misspelt keys and values out of range, in the file and in rows, are invalid."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | change
    errors = list(validator("params.schema.json").iter_errors(content))
    assert errors
    assert what in str(errors[0].message)


# Numbers in the text --------------------------------------------------------------------------------------------------


def test_the_headline_on_speed_is_what_was_measured() -> None:
    """It has the smallest and largest median ratio to the plain loop, of each committed measurement."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    said = page.partition("\n## ")[0]
    for name, form in (("cpu", "{} to {} times"), ("cpu_without_bf16", "{} to {}")):
        measured = json.loads((ROOT / "results" / "bench" / f"{name}.json").read_text(encoding="utf-8"))
        ratios = ratios_of(measured)
        digits = 1 if name == "cpu" else 2
        assert form.format(*(f"{one:.{digits}f}" for one in (min(ratios), max(ratios)))) in said


def ratios_of(measured: Any) -> list[float]:
    """Median ratio of ours to the plain loop, per model."""
    return [model["ratios"]["median"] for model in measured["models"].values()]


def test_the_pages_count_the_runs_of_the_full_study() -> None:
    """The number equals that of the plan."""
    planned = sum(not run.at_transfer for run in study.load(ROOT).everything())
    assert f"{planned} runs" in (ROOT / "docs" / "full_run.md").read_text(encoding="utf-8")


# In a browser ---------------------------------------------------------------------------------------------------------

MEASURE = """
const found = {}, names = NAMES, frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const out = [...page.querySelectorAll("article *")].filter((node) => {
    if (node.closest(".table-wrapper, pre, .headerlink") && !node.matches(".table-wrapper, pre")) return false;
    const box = node.getBoundingClientRect();
    return box.width > 0 && box.right > width + 0.5;
  }).map((node) => node.outerHTML.slice(0, 90));
  found[names[0]] = {page: page.documentElement.scrollWidth, out: out.slice(0, 3)};
  names.shift();
  if (names.length) frame.src = "SITE/" + names[0];
  else document.body.textContent = "MEASURED" + JSON.stringify(found) + "END";
});
frame.src = "SITE/" + names[0];
"""
"""A page that measures others, one after another, in a frame of a given width."""


def browse(folder: Path, address: str, *flags: str) -> str:
    """The page after its scripts have run in a browser."""
    command = [str(CHROMIUM), *QUIET, "--allow-file-access-from-files", "--disable-web-security", *flags]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


@browser
@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_is_wider_than_its_window(site: Path, width: int, tmp_path: Path) -> None:
    """On a phone and on a desktop: no horizontal scrolling and no overflow; only wide tables scroll."""
    names = sorted(path.name for path in site.glob("*.html"))
    script = MEASURE.replace("NAMES", json.dumps(names)).replace("SITE", site.as_uri())
    frame = f'<iframe style="border:0;width:{width}px;height:900px"></iframe>'
    (tmp_path / "frame.html").write_text(f"<body>{frame}<script>{script}</script>", encoding="utf-8")
    said = browse(tmp_path, (tmp_path / "frame.html").as_uri(), f"--window-size={width + 100},1000")
    matched = re.search(r"MEASURED(\{.*\})END", said, re.DOTALL)
    assert matched, said[-500:]
    measured = json.loads(html.unescape(matched[1]))
    assert set(measured) == set(names)
    assert {name: one for name, one in measured.items() if one["page"] > width or one["out"]} == {}


@browser
def test_search_finds_words_without_a_server(site: Path, tmp_path: Path) -> None:
    """The search works from a file, without a server."""
    said = browse(tmp_path, (site / "search.html").as_uri() + "?q=zero_output")
    assert 'href="growth.html' in said.partition('id="search-results"')[2]
