"""Hostile texts and names are refused, or shown literally; and the page is tested in a real browser."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import report_fixture as synthetic
from conftest import ROOT
from coopnet import files, study
from coopnet.files.errors import CoopNetError
from coopnet.report import report, tables, timing
from coopnet.study.settings import Imported, Parameters
from test_fuzz import BASE, write

BIN = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WORDS = (
    "<script>document.title='pwned'</script><style>h1{display:none}</style>",
    "<img src=http://127.0.0.1:9/x onerror=alert(1)>",
    "\" onload=\"alert(1)' autofocus onfocus='alert(1)",
    "]]></style></title><!-- --><iframe src=//example.org>",
    "&lt;b&gt; &#x41;",
    '#eval("1") #read("/etc/passwd") $x$ *bold* _it_ @ref \\ <label> #let',
    "{{ 7*7 }} {% raw %} {experiment} ${item.seed} %s %(x)s",
    "$(touch pwned) `touch pwned` ; touch pwned | cat",
    "javascript:alert(1) [a](javascript:alert(1)) ![b](http://127.0.0.1:9/y) ~~c~~",
    r"\frac{1}{2} $\frac{1}{2}$ $_$",
)
"""Each would have an effect in one of the languages through which a report passes."""
HOSTILE = " § ".join(WORDS)
NAMES = (
    *(
        "../x",
        "../../etc",
        "/etc/passwd",
        "a/b",
        ".",
        "..",
        ".hidden",
        "-rf",
        "--help",
        "a b",
        "a'b",
        'a"b',
        "a\nb",
        "",
    ),
    *("$(touch pwned)", "`touch pwned`", "a;b", "a|b", "*", "a\x00b", "\u202eabc", "x" * 5_000, "ä", "{experiment}"),
    *("${HOME}", "CON.txt", "one3\n", "~", "%2e%2e", "a\\b", "#x", "@x"),
)

# Names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_hostile_name_is_refused_everywhere(name: str, tmp_path: Path) -> None:
    """As an experiment, a study, the file of a study, a claim or a source of figures, in one line."""
    root = write(tmp_path, BASE | {"experiments": {name: {"about": "x"}}})
    wanted = [lambda: study.load(root), lambda: study.load(write(root, BASE), name)]
    if name and "\0" not in name:
        wanted.append(lambda: study.checked_name(name))
    if not {"/", "\0"} & set(name) and len(name) < 200:

        def overlay() -> None:
            write(root, BASE)
            (root / "studies" / f"{name}.yaml").write_text("{}")
            try:
                study.load(root, "other")
            finally:
                (root / "studies" / f"{name}.yaml").unlink()

        if not name.startswith("."):
            wanted.append(overlay)
    for attempt in wanted:
        with pytest.raises(CoopNetError) as refused:
            attempt()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("name", ["full", "bench"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    """A study with the folder name of something else would overwrite it."""
    root = write(tmp_path, BASE, {})
    (root / "studies" / f"{name}.yaml").write_text("{}")
    with pytest.raises(CoopNetError, match="rename the file"):
        study.load(root, "other")


@pytest.mark.parametrize("name", ["007", "1e3", "2024_01"])
def test_a_name_that_snakemake_takes_for_a_number_is_refused(name: str, tmp_path: Path) -> None:
    """`--config study=1e3` would ask for the study 1000.0."""
    root = write(tmp_path, BASE, {})
    (root / "studies" / f"{name}.yaml").write_text("{}")
    with pytest.raises(CoopNetError, match="a letter first"):
        study.load(root, "other")
    with pytest.raises(CoopNetError, match="a letter first"):
        study.checked_name(name)


@pytest.mark.parametrize("command", ["report", "timing"])
def test_the_command_line_leaves_its_folder_alone(command: str, tmp_path: Path) -> None:
    """A study name that is a path neither reads nor writes outside the workspace."""
    root = write(tmp_path / "workspace", BASE)
    (tmp_path / "victim/tables").mkdir(parents=True)
    done = subprocess.run([BIN / "coopnet", command, "../../victim"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("coopnet: error: there is no study '../../victim': a name must be small letters")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")].count("tables") == 1
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    "path", ["/etc", "../x", "a/../../x", "", "a b", "-rf", "a\nb", "{seed}", "$(x)", "~/x", "a;b"]
)
def test_a_hostile_folder_of_a_checkpoint_is_refused(path: str) -> None:
    """The folder of an imported network must be below that of `params.yaml` and have a plain name."""
    with pytest.raises(ValueError, match=r"params\.yaml|rename the folder"):
        Imported(kind="imported", path=path)
    assert Imported(kind="imported", path="imported/net-1.0").path == "imported/net-1.0"


# Words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a\x00b", "a\x1bb", "\u202eabc", "a\u200bb", "\ufeffa", "=cmd|' /C calc'!A0", "@SUM(A1)"]
)
def test_words_that_hide_or_compute_are_refused(text: str, tmp_path: Path) -> None:
    """Control characters, right-to-left overrides, and spreadsheet formulas are refused, with the remedy."""
    for content in (BASE | {"title": text}, BASE | {"experiments": {"one1": {"about": text}}}):
        with pytest.raises(CoopNetError, match=r"remove it|begin with a word") as refused:
            study.load(write(tmp_path, content))
        assert str(refused.value).isprintable()


def test_words_of_this_project_stay_as_they_are() -> None:
    """The check changes no title, description or remark in use."""
    for name in study.names(ROOT):
        path = ROOT / (f"studies/{name}.yaml" if name != "full" else "params.yaml")
        content, plan = yaml.safe_load(path.read_text(encoding="utf-8")), study.load(ROOT, name)
        assert (plan.title, plan.description) == (content["title"], content["description"])
    rows = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["experiments"]
    assert {name: row.about for name, row in study.rows(ROOT).items()} == {n: row["about"] for n, row in rows.items()}


def test_words_are_accepted_in_every_language() -> None:
    """Any printable text is accepted."""
    for text in (*WORDS, "Zürich 東京 קוד \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 👩\u200d🔬 ½ ≥"):
        plan = Parameters.model_validate(BASE | {"title": text})
        assert plan.title == text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page, PDF and ledger of a small study whose texts are all hostile."""
    root = tmp_path_factory.mktemp("hostile")
    rows = [synthetic.Row("one3", HOSTILE, 3, 47.0)]
    runs, plan = synthetic.write_study(root / "results" / "mini", (0,), HOSTILE, rows)
    tables.build(runs, replace(plan, description=HOSTILE), root / "results/mini/tables")
    stated = [claim | {"text": f"{claim['claim']} {HOSTILE}", "source": HOSTILE} for claim in synthetic.claims()]
    files.write_json(root / "results/mini/claims.json", stated)
    report.render(root / "results/mini/tables", root / "reports/mini")
    timing.render(root / "results/mini/tables", root / "reports/mini")
    return root / "reports/mini"


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, the targets of links, and the text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links += [value or "" for name, value in attributes if name in ("href", "xlink:href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["index.html", "timing.html"])
def test_hostile_words_add_nothing_to_a_page(name: str, made: Path) -> None:
    """The page has the elements and attributes of a normal page, and shows the texts literally."""
    page = Elements((made / name).read_text(encoding="utf-8"))
    pages = [(ROOT / "reports/mini" / one).read_text(encoding="utf-8") for one in ("index.html", "timing.html")]
    honest = "".join(pages).lower()  # of which neither has every kind of section
    assert HOSTILE in page.text
    assert page.elements <= set(re.findall(r"<([a-z]\w*)", honest))
    assert page.attributes <= set(re.findall(r"\s([a-z][\w:-]*)=", honest)) | {"open"}
    assert not {one for one in page.attributes if one.startswith("on")} | (page.attributes & {"style", "srcdoc"})
    schemes = {re.match(r"(#|data:image/png;base64|\w[\w-]*:|[\w./-]*$)", link)[1] for link in page.links}
    assert not {one for one in schemes if one.endswith(":")}


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext (poppler-utils) is not installed")
def test_hostile_words_are_letters_in_the_pdf(made: Path) -> None:
    """Texts that typst would compute, read or emphasise are printed literally."""
    done = subprocess.run(["pdftotext", made / "report.pdf", "-"], capture_output=True, text=True, check=True)
    letters = re.sub(r"\s", "", done.stdout)
    for words in ('#eval("1")', '#read("/etc/passwd")', "*bold*", "_it_", "{{7*7}}", "<script>"):
        assert words in letters
    assert "root:" not in letters


def test_hostile_words_are_no_markup_of_a_figure(made: Path) -> None:
    """Text stays text: a figure has no script, no link and no foreign content, whatever its labels are."""
    figures = list(made.rglob("*.svg"))
    assert figures
    for path in figures:
        figure = Elements(path.read_text(encoding="utf-8"))
        assert figure.elements <= {"svg", "g", "path", "use", "text", "tspan", "defs", "style", "clippath", "rect",
                                   "image", "metadata", "rdf:rdf", "cc:work", "dc:type", "dc:format"}, path  # fmt: skip
        assert all(link.startswith(("#", "data:image/png")) for link in figure.links)


def test_hostile_words_are_text_in_markdown(made: Path) -> None:
    """Markdown characters in a claim are escaped, so they create no link, image or element."""
    page = (made / "claims.md").read_text(encoding="utf-8")
    text = page[page.index("| | claim |") :].replace("<br>", " ")
    assert not re.search(r"(?<!\\)[<>`*]|(?<!\\)\]\(|(?<!\\)!\[", re.sub(r"\[[−+\d.]+, [−+\d.]+\]", "", text))
    assert "\\<script\\>" in text
    lines = text.splitlines()
    assert len(lines) == 2 + len({claim["claim"] for claim in synthetic.claims()})
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}


# The page in a browser ---------------------------------------------------------------------------------

browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not tried in a browser")


QUIET = (
    *(
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-pings",
    ),
    *("--disable-default-apps", "--disable-extensions", "--disable-domain-reliability", "--metrics-recording-only"),
    "--disable-features=OptimizationHints,Translate,MediaRouter,NetworkTimeServiceQuerying,AutofillServerCommunication",
)
OWN = re.compile(
    r"(https?://)?((update|optimizationguide-pa|safebrowsing|content-autofill|edgedl\.me)\.(googleapis|gvt1)\.com"
    r"|(accounts|clients\d?|www|android\.clients|redirector)\.(google|gvt1)\.com)[:/].*"
)
"""Requests that the browser makes by itself, whatever page is open."""


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and records every request, also those that a browser sends to it as its proxy."""

    asked: list[str]

    def log_message(self, *_: Any) -> None:
        if not OWN.fullmatch(self.path) and "favicon" not in self.path:
            self.asked.append(self.path)

    def do_CONNECT(self) -> None:
        self.send_error(403)


@pytest.fixture
def server() -> Iterator[Any]:
    """Serve a folder; returns its address and the list of requests."""
    running = []

    def serve(folder: Path) -> tuple[str, list[str]]:
        asked: list[str] = []
        handler = type("Noting", (Server,), {"asked": asked})
        one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        running.append(one)
        threading.Thread(target=one.serve_forever, daemon=True).start()
        return f"127.0.0.1:{one.server_port}", asked

    yield serve
    for one in running:
        one.shutdown()
        one.server_close()


def opened(address: str, proxy: str, profile: Path) -> tuple[str, str]:
    """The page as a browser has it after loading, and the console output."""
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *QUIET),
            *(f"--proxy-server={proxy}", "--proxy-bypass-list=<-loopback>", f"--user-data-dir={profile}"),
            *("--enable-logging=stderr", "--v=0", "--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@browser
@pytest.mark.parametrize(
    ("place", "page"),
    [
        ("file", "index.html"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("http", "index.html"), ("http", "timing.html"))),
        pytest.param("file", "timing.html", marks=pytest.mark.slow),
    ],
)
def test_a_browser_shows_a_hostile_report_and_asks_for_nothing(
    place: str, page: str, made: Path, server: Any, tmp_path: Path
) -> None:
    """All styles match the policy, no script runs, and nothing except the page itself is requested."""
    proxy, asked = server(made)
    address = (made / page).as_uri() if place == "file" else f"http://{proxy}/{page}"
    dom, console = opened(address, proxy, tmp_path)
    assert console == ""
    assert "<title>pwned" not in dom
    assert "</html>" in dom
    own = [f"http://{proxy}/{page}"] if place == "http" else []
    assert set(asked) == set(own)  # a browser may ask for the page itself twice


@browser
def test_the_committed_report_passes_its_own_policy(server: Any, tmp_path: Path) -> None:
    """The report in this repository opens from its file without a violation of the policy or a request."""
    proxy, asked = server(tmp_path)
    dom, console = opened((ROOT / "reports/mini/index.html").as_uri(), proxy, tmp_path / "profile")
    assert (console, asked) == ("", [])
    assert "</html>" in dom


INTRUDERS = (
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "<style>h1 { display: none }</style>",
    '<p style="position: fixed">x</p>',
    '<img src="http://{server}/image">',
    '<link rel="stylesheet" href="http://{server}/style.css">',
    '<iframe src="http://{server}/frame"></iframe>',
    '<base href="http://{server}/">',
    '<object data="http://{server}/object"></object>',
)


@browser
def test_the_policy_stops_what_gets_into_a_page(made: Path, server: Any, tmp_path: Path) -> None:
    """If unescaped content got into a page, no script would run, no style apply and no request leave."""
    proxy, asked = server(made)
    text = (made / "timing.html").read_text(encoding="utf-8")
    injected = "\n".join(INTRUDERS).replace("{server}", proxy)
    (tmp_path / "page.html").write_text(text.replace("<main>", f"<main>{injected}"), encoding="utf-8")
    dom, console = opened((tmp_path / "page.html").as_uri(), proxy, tmp_path / "profile")
    assert "<title>pwned" not in dom
    assert asked == []
    assert console.count("Content Security Policy") >= len(INTRUDERS) - 1
    assert re.search(r"(?i)appl\w+ inline style", console)
    for directive in ("script-src", "style-src", "img-src", "base-uri"):
        assert directive in console
    # The same intruders run where there is no policy: the test sees what it should.
    (tmp_path / "open.html").write_text(
        re.sub(r"<meta http-equiv[^>]*>", "", text).replace("<main>", f"<main>{injected}"), encoding="utf-8"
    )
    dom, _ = opened((tmp_path / "open.html").as_uri(), proxy, tmp_path / "profile")
    assert "<title>pwned" in dom
    assert asked


# The workflow ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "study=$(touch pwned)"], "there is no study '$(touch pwned)'"),
        (["--config", "study=../../x"], "there is no study '../../x'"),
        (["data/prepared/$(touch pwned)/manifest.json"], "MissingRuleException"),
        (["checkpoints/full/train_one/$(touch pwned)/seed0/metrics.json"], "MissingRuleException"),
        ([], "is not a known key; did you mean 'device'?"),
    ],
)
def test_the_workflow_refuses_before_anything_starts(arguments: list[str], words: str, tmp_path: Path) -> None:
    """Hostile names and a wrong file end `snakemake` before any job, without a traceback, and nothing runs."""
    for name in ("params.yaml", "claims.yaml", "figures.yaml", "Snakefile", "studies", "workflow", "profiles"):
        source = ROOT / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    if not arguments:
        text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
        (tmp_path / "params.yaml").write_text(text.replace("device:", "divice:", 1), encoding="utf-8")
    environment = os.environ | {"PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    done = subprocess.run(
        [BIN / "snakemake", "--cores", "1", *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert words in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "results").exists()
