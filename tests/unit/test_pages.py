"""The committed reports as readers see them: links, policy, figures, pages, and their appearance in a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conftest import ROOT
from coopnet.report.topics import method

REPORTS = sorted(path.parent for path in (ROOT / "reports").glob("*/index.html"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-pings",
        "--hide-scrollbars",
    ),
)

pytestmark = pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.name)
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not tried in a browser")


def tool(name: str) -> pytest.MarkDecorator:
    """Skip if a tool of poppler-utils is missing."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} (poppler-utils) is not installed")


class Page(HTMLParser):
    """Ids, links and elements of a page, and the cells of each row that has an id."""

    def __init__(self, source: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self._row: list[str] | None = None
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.attributes += given
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))
        if tag == "tr":
            self._row = self.rows.setdefault(str(given.get("id")), [])
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_data(self, data: str) -> None:
        if self._row:
            self._row[-1] += data.strip("\n")


def source_of(report: Path) -> str:
    """The page's source."""
    return (report / "index.html").read_text(encoding="utf-8")


# Links and policy ----------------------------------------------------------------------------------


def test_every_link_leads_somewhere(report: Path) -> None:
    """Anchors are on the page, files in the repository; ids are unique."""
    page = Page(source_of(report))
    assert len(page.ids) == len(set(page.ids))
    for link in set(page.links):
        assert (link[1:] in page.ids) if link.startswith("#") else (report / link).resolve().is_file(), link


def test_claims_lead_to_their_rows_and_rows_to_their_records(report: Path) -> None:
    """Each experiment has a row and a record with an anchor, and each claim a row."""
    page = Page(source_of(report))
    results = ROOT / "results" / report.name
    for row in json.loads((results / "tables/study.json").read_text())["experiments"]:
        assert {f"run-{row['name']}", f"record-{row['name']}"} <= set(page.ids)
        assert {f"#run-{row['name']}", f"#record-{row['name']}"} <= set(page.links)
        if row["branches"] == 1:  # whose ensemble, branch and mean of branches are one number
            assert page.rows[f"run-{row['name']}"][6].strip() == ""
    stated = {entry["number"] for entry in json.loads((results / "claims.json").read_text())}
    assert {f"claim-{number}" for number in stated} <= set(page.ids)


def test_claims_lead_to_the_experiments_that_they_compare(report: Path) -> None:
    """The row of a claim links to the rows of all experiments whose results decide it."""
    source, results = source_of(report), ROOT / "results" / report.name
    names = {row["name"] for row in json.loads((results / "tables/study.json").read_text())["experiments"]}
    for entry in json.loads((results / "claims.json").read_text()):
        if entry["verdict"] in ("not run", "not decided"):
            continue
        row = source.partition(f'<tr id="claim-{entry["number"]}">')[2].partition("</tr>")[0]
        compared = {word for part in entry["parts"] for word in re.findall(r"\w+", part["text"])} & names
        assert {f"#run-{name}" for name in compared} <= set(re.findall(r'href="([^"]*)"', row)), entry["id"]


def test_the_first_screen_leads_to_definitions(report: Path) -> None:
    """Every definition has an id of its own, and the first screen uses some."""
    text = (report / "index.html").read_text(encoding="utf-8")
    first = text[: text.index('<section id="method"')]
    used = set(re.findall(r'class="term" href="#(term-[a-z0-9-]+)"', first))
    defined = re.findall(r'<div id="(term-[a-z0-9-]+)"', text)
    assert {"term-continued-training-control", "term-95-interval"} <= used <= set(defined)
    assert len(defined) == len(set(defined)) == len(method.TERMS)


def test_no_number_has_digits_that_nobody_measured(report: Path) -> None:
    """A rounding error of binary numbers, such as 5.333335999999999 epochs, is not shown."""
    shown = re.sub(r"<(style|script|svg).*?</\1>|<[^>]*>", " ", source_of(report), flags=re.DOTALL)
    assert len(re.findall(r"\d\.\d", shown)) > 100
    assert not re.findall(r"\d\.\d{11,}", shown)


def test_style_and_script_are_those_that_the_policy_knows(report: Path) -> None:
    """There is one style and one script, with the policy's digests; the policy allows nothing else."""
    source = source_of(report)
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', source)[0])
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.findall(r"https?://(?!www\.w3\.org/)", source)
    attributes = set(Page(source).attributes)
    assert not {name for name in attributes if name.startswith("on")} | (attributes & {"style", "srcdoc", "src"})


# Sizes ---------------------------------------------------------------------------------------------


def test_a_report_is_small(report: Path) -> None:
    """Page, paper and appendix are below 1.5 MB each, all figures together below 1 MB, the Markdown below 10 kB."""
    for name in ("index.html", "report.pdf", "appendix.pdf"):
        assert (report / name).stat().st_size < 1_500_000, name
    assert sum(path.stat().st_size for path in (report / "figures").iterdir()) < 1_000_000
    assert (report / "report.md").stat().st_size < 10_000


def test_figures_carry_their_letters(report: Path) -> None:
    """Text is text, at least 9 points, in an embedded font; no figure is wider than a phone."""
    for path in (report / "figures").glob("*.svg"):
        figure = path.read_text(encoding="utf-8")
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", figure)]
        assert "<text" in figure
        assert min(sizes) >= 9, path.name
        assert "data:font/woff;base64," in figure
        assert float(re.findall(r'width="([\d.]+)pt"', figure)[0]) <= 358, path.name


@tool("pdfinfo")
def test_the_paper_has_the_length_of_a_paper(report: Path) -> None:
    """The paper has 8 to 14 pages, at most six for the demo; the appendix is separate, and neither has a date."""
    pages = {}
    for name in ("report", "appendix"):
        said = subprocess.run(["pdfinfo", report / f"{name}.pdf"], capture_output=True, text=True, check=True).stdout
        pages[name] = int(re.findall(r"Pages:\s+(\d+)", said)[0])
        assert "CreationDate" not in said
    low, high = (1, 6) if report.name == "demo" else (8, 14)
    assert low <= pages["report"] <= high


@tool("pdffonts")
@pytest.mark.parametrize("name", ["report", "appendix"])
def test_fonts_of_the_pdf_are_embedded(report: Path, name: str) -> None:
    """All fonts are embedded, and none is a substitute for missing characters."""
    said = subprocess.run(["pdffonts", report / f"{name}.pdf"], capture_output=True, text=True, check=True).stdout
    fonts = [line.split() for line in said.splitlines()[2:]]
    assert fonts
    assert all(line[-5:-3] == ["yes", "yes"] or line[-5] == "yes" for line in fonts), said


@tool("pdftotext")
def test_nothing_is_cut_off_at_the_edge_of_a_page(report: Path, tmp_path: Path) -> None:
    """Every word of paper and appendix is within the margins."""
    for name in ("report", "appendix"):
        subprocess.run(["pdftotext", "-bbox", report / f"{name}.pdf", tmp_path / "words"], check=True)
        boxes = re.findall(r'xMin="([\d.-]+)" yMin="[\d.-]+" xMax="([\d.]+)"', (tmp_path / "words").read_text())
        assert min(float(left) for left, _ in boxes) >= 45
        assert max(float(right) for _, right in boxes) <= 595.3 - 45, name


@tool("pdftotext")
def test_the_paper_begins_with_its_title(report: Path) -> None:
    """The first figure floats, and never above the title."""
    command = ["pdftotext", "-layout", "-l", "1", report / "report.pdf", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.split()[:2] == ["CoopNet", "·"]


# In a browser --------------------------------------------------------------------------------------

MEASURE = """
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, view = frame.contentWindow, width = WIDTH;
  const inside = (node) => node.closest("nav, .skip, thead, details:not([open])") === null
    && ![...page.querySelectorAll(".scroll")].some(
      (box) => box !== node && box.contains(node) && view.getComputedStyle(box).overflowX === "auto");
  const wide = [...page.querySelectorAll("body *")].filter((node) => {
    const box = node.getBoundingClientRect();
    return inside(node) && box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
  }).map((node) => node.outerHTML.slice(0, 80));
  const tables = [...page.querySelectorAll(".scroll")].filter(
    (node) => inside(node) && node.scrollWidth > node.clientWidth + 1);
  const letters = [...page.querySelectorAll("svg text")].map(
    (node) => parseFloat(view.getComputedStyle(node).fontSize) * node.getScreenCTM().a);
  const colours = (node, name) => view.getComputedStyle(node)[name];
  const branches = page.querySelector("#branches-table"), search = branches.parentElement.previousElementSibling;
  search.querySelector("input").value = "One3_to_5_split";
  search.querySelector("input").dispatchEvent(new view.Event("input"));
  const left = [...branches.querySelectorAll("tbody tr")].filter((row) => !row.hidden && !row.matches(".part")).length;
  document.body.textContent = "MEASURED" + JSON.stringify({
    page: page.documentElement.scrollWidth, wide: wide.slice(0, 5), smallest: Math.min(...letters),
    tables: tables.map((node) => node.querySelector("table").id), height: page.documentElement.scrollHeight,
    left, buttons_of_branches: branches.querySelectorAll("thead button").length,
    folded: page.querySelectorAll("details.folds:not([open])").length,
    unfolded: page.querySelectorAll("details.folds[open]").length, terms: page.querySelector("#terms").open,
    paper: colours(page.body, "backgroundColor"), ink: colours(page.body, "color"),
    text: colours(page.querySelector("svg text"), "fill"), buttons: page.querySelectorAll("thead button").length,
  }) + "END";
});
frame.src = "ADDRESS";
"""
"""A page that measures another one in a frame of a given width."""


def measured(report: Path, width: int, folder: Path, *flags: str, place: str = "") -> dict[str, object]:
    """The layout of a report in a browser at a width: sizes in CSS pixels, colours, and overflowing elements."""
    address = (report / "index.html").as_uri() + place
    script = MEASURE.replace("WIDTH", str(width)).replace("ADDRESS", address)
    frame = f'<iframe style="border:0;width:{width}px;height:900px"></iframe>'
    (folder / "frame.html").write_text(f"<body>{frame}<script>{script}</script>", encoding="utf-8")
    done = subprocess.run(
        [
            *(str(CHROMIUM), *QUIET, "--allow-file-access-from-files", "--disable-web-security", *flags),
            *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 100},1000"),
            *("--virtual-time-budget=30000", "--dump-dom", (folder / "frame.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = re.search(r"MEASURED(\{.*\})END</body>", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return dict(json.loads(html.unescape(found[1])))


@browser
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_sticks_out_and_every_letter_is_legible(report: Path, width: int, tmp_path: Path) -> None:
    """On a phone and on a desktop: no horizontal scrolling, no overflow, no figure text below 9 pixels."""
    found = measured(report, width, tmp_path)
    assert int(str(found["page"])) <= width
    assert found["wide"] == []
    assert float(str(found["smallest"])) >= 9
    assert found["tables"] == []
    assert int(str(found["buttons"])) > 0  # the script ran: tables can be sorted


@browser
@pytest.mark.parametrize("width", [390, 1400])
def test_long_tables_are_folded_on_a_telephone_alone(report: Path, width: int, tmp_path: Path) -> None:
    """On a phone the terms, and tables of two rows or more, are a line each, for at most 24 screens in all."""
    found = measured(report, width, tmp_path)
    folded, unfolded = int(str(found["folded"])), int(str(found["unfolded"]))
    assert folded + unfolded > 0
    assert (unfolded if width == 390 else folded) == 0
    assert found["terms"] is (width > 390)
    assert width > 390 or int(str(found["height"])) <= 24 * 844


@browser
def test_a_link_to_a_folded_term_unfolds_it(report: Path, tmp_path: Path) -> None:
    """Terms are folded on a phone; whoever follows a link to one sees it. Chromium itself unfolds them, too."""
    link = re.search(r'class="term" href="(#term-[^"]+)"', (report / "index.html").read_text(encoding="utf-8"))
    assert link
    assert measured(report, 390, tmp_path, place=link[1])["terms"] is True


@browser
def test_the_filter_finds_the_branches_of_a_network(report: Path, tmp_path: Path) -> None:
    """Their rows have no name, so they are found by that of the row above, and sorting does not part them from it."""
    found = measured(report, 1400, tmp_path)
    assert found["left"] == 2 * (1 + 5)  # of one3_to_5_split and of one3_to_5_split_exact: the ensemble, five branches
    assert found["buttons_of_branches"] == 0


@browser
def test_figures_follow_the_page_into_the_dark(report: Path, tmp_path: Path) -> None:
    """Dark mode has light text on a dark background, also in figures."""
    light = measured(report, 800, tmp_path, "--blink-settings=preferredColorScheme=1")
    (tmp_path / "dark").mkdir()
    dark = measured(report, 800, tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert light["paper"] == "rgb(255, 255, 255)"
    assert dark["paper"] == "rgb(18, 22, 28)"
    assert light["text"] != dark["text"]
    assert dark["ink"] == "rgb(229, 231, 235)"


@browser
@tool("pdftotext")
def test_a_printed_page_is_whole(report: Path, tmp_path: Path) -> None:
    """No word is beyond the paper, and the answers are on the first sheet."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer"]
    target = tmp_path / "print.pdf"
    subprocess.run([*command, f"--print-to-pdf={target}", (report / "index.html").as_uri()], check=True, timeout=300,
                   capture_output=True)  # fmt: skip
    subprocess.run(["pdftotext", "-bbox", target, tmp_path / "words"], check=True)
    words = (tmp_path / "words").read_text()
    width = float(re.findall(r'<page width="([\d.]+)"', words)[0])
    assert max(float(right) for right in re.findall(r'xMax="([\d.]+)"', words)) <= width
    first = subprocess.run(["pdftotext", "-l", "1", target, "-"], capture_output=True, text=True, check=True).stdout
    assert "Growth at transfer" in first
