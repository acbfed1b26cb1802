"""The ledger as the report shows it: what claims.json holds, a line per claim, first of all sections."""

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import report_fixture as synthetic
from conftest import ROOT
from coopnet import files
from coopnet.claims.decisions import Decision
from coopnet.files.errors import CoopNetError
from coopnet.report import content, ledger, pdf, report, tables
from coopnet.report.document import Cell, Report, Section, Table
from coopnet.report.frames import load
from coopnet.report.topics import claims as topic
from coopnet.report.topics.claims import by_question
from coopnet.report.wording import MINUS

FIXED = "\u00a0"
SIGNS = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not decided": "!", "not run": "–"}
Entries = list[dict[str, Any]]


class Page(HTMLParser):
    """The first table's cells, as text and as links, and the ids and elements of the whole page."""

    def __init__(self, page: str):
        super().__init__()
        self.ids, self.elements, self.rows, self.links = [], [], {}, []
        self._table: str | None = None
        self._head = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.elements.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "table":
            self._table = "claims-table" if given["id"].startswith("question-") else given["id"]
            self.rows.setdefault(self._table, [])
        elif tag == "thead":
            self._head = True
        elif self._head:
            pass
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        elif tag == "small" and self._table:
            self.rows[self._table][-1][-1] += " | "
        elif tag == "a" and self._table == "claims-table":
            self.links.append(given["href"])

    def handle_endtag(self, tag: str) -> None:
        self._table = None if tag == "table" else self._table
        self._head = self._head and tag != "thead"

    def handle_data(self, data: str) -> None:
        if self._table and not self._head and self.rows[self._table] and self.rows[self._table][-1]:
            self.rows[self._table][-1][-1] += data.strip("\n").replace(FIXED, " ")

    def lines(self, table: str) -> dict[str, list[str]]:
        """The rows of a table below its heading, by their first cell."""
        return {row[0]: row for row in self.rows[table] if row[0] and not row[0].startswith("Claim")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study, with its tables and its ledger."""
    root = tmp_path_factory.mktemp("study") / "results" / "mini"
    runs, info = synthetic.write_study(root, seeds=(0,))
    tables.build(runs, info, root / "tables")
    files.write_json(root / "claims.json", synthetic.claims())
    return root


@pytest.fixture(scope="module")
def out(study: Path) -> Path:
    """Its report."""
    report.render(study / "tables", study.parent.parent / "reports" / "mini")
    return study.parent.parent / "reports" / "mini"


@pytest.fixture(scope="module")
def source(out: Path) -> str:
    """The source of its page."""
    return (out / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    """What a reader of the page sees."""
    return Page(source)


@pytest.fixture(scope="module")
def composed(study: Path) -> Report:
    """The content of the report."""
    return content.compose(load(study / "tables"))


def shown(study: Path, tmp_path: Path, entries: Entries) -> Report:
    """The content of a report with another ledger."""
    files.write_json(tmp_path / "claims.json", entries)
    return content.compose(_with(study, tmp_path / "claims.json"))


def _with(study: Path, path: Path) -> Any:
    loaded = load(study / "tables")
    object.__setattr__(loaded, "claims", ledger.load(path, "mini"))
    return loaded


def cells(report: Report, table: str) -> list[list[Cell]]:
    """The rows of one of the ledger's tables."""
    (found,) = [item for item in section(report).items if isinstance(item, Table) and item.id == table]
    return [row.cells for row in found.rows]


def section(report: Report) -> Section:
    """The section of the ledger."""
    return next(one for one in report.sections if one.id == "claims")


# The section ---------------------------------------------------------------------------------------


def test_the_ledger_follows_the_results_that_it_links_to(composed: Report, page: Page) -> None:
    """It stands before provenance, which is last, on the page too."""
    assert [one.id for one in composed.sections[-2:]] == ["claims", "provenance"]
    assert page.ids.index("results") < page.ids.index("claims") < page.ids.index("provenance")


def test_claims_are_grouped_by_question(composed: Report) -> None:
    """One table per leading number, with the count of each verdict beside the question."""
    tables_of = [item for item in section(composed).items if isinstance(item, Table) and item.where == "page"]
    numbers = [re.match(r"\d+", entry["number"])[0] for entry in synthetic.claims()]  # type: ignore[index]
    assert [item.id for item in tables_of] == [f"question-{number}" for number in dict.fromkeys(numbers)]
    sixth = next(item for item in tables_of if item.id == "question-6")
    assert [word.replace(FIXED, " ") for word, _ in sixth.counts] == ["tested", "✓ 1", "✗ 1", "? 1", "(Holm: 1 of 2)"]
    assert sixth.title.startswith("6. Is growing in two stages")
    unknown = next(item for item in tables_of if item.id == "question-99")
    assert unknown.title == f"99. {synthetic.HOSTILE_CLAIM}"


@pytest.mark.parametrize(("level", "words"), [(0.95, ""), (0.9875, "98.75 % interval, ")])
def test_the_number_of_several_parts_says_whose_it_is(level: float, words: str) -> None:
    """It is that of the weakest part, and an interval of another level than 95 % names it."""
    (entry,) = [one for one in synthetic.claims() if one["claim"] == "one_over_baseline" and one["score"] == "top1"]
    several = Decision.model_validate(entry | {"level": level, "parts": entry["parts"] * 4})
    single = Decision.model_validate(entry)
    *_, estimate = topic._outcome(several)
    assert estimate.detail.replace(FIXED, " ").endswith(f"], {words}weakest of 4 parts, n = {several.n}")
    *_, alone = topic._outcome(single)
    assert alone.detail.replace(FIXED, " ").endswith(f"], n = {single.n}")


def test_every_claim_has_one_line_in_the_file_s_order(page: Page) -> None:
    """Scores of a claim share its line."""
    numbers = list(dict.fromkeys(entry["number"] for entry in synthetic.claims()))
    assert [row[0] for row in page.rows["claims-table"]] == numbers


def test_verdicts_are_words_with_a_sign(page: Page) -> None:
    """Each score's verdict stands in its own column, a claim decided once in the first; none leaves an empty cell."""
    lines = page.lines("claims-table")
    for entry in synthetic.claims():
        place = 4 if entry["score"] == "top5" else 2
        found = lines[entry["number"]][place].split(" | ")[0]
        assert found == f"{SIGNS[entry['verdict']]} {entry['verdict']}"
    for number in ("3", "10"):  # one without a score, one with top-1 alone
        assert lines[number][4:6] == ["", ""]


def test_each_verdict_has_a_sign_of_its_own() -> None:
    """No two verdicts differ by colour alone."""
    assert ledger.SYMBOLS == SIGNS
    assert len(set(SIGNS.values())) == len(SIGNS)


def test_estimates_stand_with_interval_unit_and_n(page: Page) -> None:
    """Differences have signs, counts no places, and what is not in points its unit."""
    lines = page.lines("claims-table")
    assert lines["1"][3] == "+1.23 | [+0.40, +2.10], n = 3"
    assert lines["1"][5] == "+0.52 | [+0.05, +0.90], n = 3"
    both = "97.5 % interval, weakest of 2 parts, n = 3"
    assert lines["4a"][3] == f"{MINUS}2.25 | [{MINUS}3.75, {MINUS}0.75], {both}"
    assert lines["4a"][5].endswith("n = 2")
    assert lines["3"][3] == "0 images | n = 3"
    assert lines["6"][3] == "+12 epochs | [+4, +20.5], n = 3"
    assert lines["6b"][3] == f"+7 epochs | [{MINUS}3, ∞], n = 3"
    assert lines["6c"][3] == f"{MINUS}25.0 % | [{MINUS}40.0, {MINUS}10.0], n = 3"
    assert lines["19"][3] == f"{MINUS}38.0 % | n = 3"


def test_the_ledger_says_what_survives_holm(page: Page) -> None:
    """Below each verdict stands what it is worth; an inconclusive one has nothing to lose."""
    lines = page.lines("claims-table")
    assert lines["1"][2] == "✓ supported | also after Holm"
    assert lines["1"][4] == "✓ supported | not after Holm"
    assert lines["6"][2] == "✗ contradicted | not after Holm"
    assert lines["6b"][2] == "? inconclusive"
    assert lines["10"][2] == "? inconclusive | too few seeds"
    assert lines["3"][2] == "✓ supported | counted"


def test_a_claim_that_was_not_run_shows_what_is_missing_and_no_number(page: Page) -> None:
    """It has the experiments' names, once for both scores, and dashes."""
    line = page.lines("claims-table")["16"]
    assert line[1].endswith("ONE paper, section 4.1 · needs one3_no_gate and one3_no_sharing")
    assert line[2:] == ["– not run", "–", "– not run", "–", "–"]
    for row in page.rows["claims-parts"]:
        if row[0].startswith("16"):
            assert row[3:] == ["– not run", "–", "–", "–", "–", "–", ""]


def test_notes_stand_with_the_score_that_they_are_about(page: Page) -> None:
    """A note of one score names it; one of all does not."""
    lines = page.lines("claims-table")
    lengths = "one1 has 160 epochs, baseline has 300 epochs"
    assert lines["4a"][1] == f"The text of growth. | ONE paper, section 4.1 · top-5: {lengths}"
    assert lines["10"][1] == "The text of embedding. | ONE paper, section 4.1 · given these networks"
    shared = "top-5: given one choice of 12,000 training images for all seeds"
    assert lines["1"][1] == f"The text of one_over_baseline. | ONE paper, section 4.1 · {shared}"


def test_every_link_leads_to_a_section_of_the_page(page: Page) -> None:
    """A claim links to its section, if the report has it, and to the rows of the compared experiments."""
    known = {"accuracy": "one", "transfer": "transfer", "curves": "one", "growth": "growth"}
    sections = {entry["claim"]: entry["section"] for entry in synthetic.claims()}
    sections_linked = [link for link in page.links if not link.startswith("#run-")]
    assert sections_linked == [f"#{known[name]}" for name in sections.values() if name != "nowhere"]
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_every_link_of_the_pdf_leads_somewhere(composed: Report, out: Path) -> None:
    """Paper and appendix have links, and only to what each of them holds."""
    for made in (pdf.paper(composed), pdf.appendix(composed)):
        rows = [row for one in made["sections"] for item in one["items"] for row in item.get("rows", ())]
        ids = {one["id"] for one in made["sections"]} | {row["id"] for row in rows}
        links = {cell["link"] for row in rows for cell in row["cells"]} - {""}
        links |= {target for row in rows for cell in row["cells"] for _, target in cell["links"]} - {""}
        assert links
        assert links <= ids
    assert (out / "report.pdf").read_bytes().count(b"/Subtype/Link") > 0


def test_the_appendix_has_what_the_page_unfolds(composed: Report) -> None:
    """Below each row of the appendix stands all that a reader of the page can unfold there."""
    kept = [row.more for section in composed.sections for item in section.items for row in getattr(item, "rows", ())]
    wanted = [text for more in kept for _, text in more]
    tables = [table for section in pdf.appendix(composed)["sections"] for table in section["items"]]
    below = [row["below"] for table in tables for row in table["rows"]]
    assert wanted
    assert all(any(text in shown for shown in below) for text in wanted)
    assert below.count("") == len(below) - sum(map(bool, kept))


def test_hostile_words_are_text(source: str, page: Page) -> None:
    """Markup, templates and typst code in a claim are shown as they are."""
    assert "img" not in page.elements
    assert page.lines("claims-table")["99"][1].split(" | ")[0] == synthetic.HOSTILE_CLAIM
    assert page.lines("claims-table")["99"][1].count(synthetic.HOSTILE_CLAIM) == 3
    assert any(synthetic.HOSTILE_CLAIM in row[9] for row in page.rows["claims-parts"])
    assert synthetic.HOSTILE_CLAIM not in source


def test_the_page_shows_every_part(page: Page) -> None:
    """Several parts stand below the line of all; rule, pairing, both p values and what is beside it are there."""
    rows = page.rows["claims-parts"]
    entries = synthetic.claims()
    assert len(rows) == sum(len(entry["parts"]) + (len(entry["parts"]) > 1) for entry in entries)
    assert rows[0] == [
        *("1 | top-1", "one3 branch 1 − baseline", "better: above 0", "✓ supported | tested"),
        *("+1.23 | [+0.40, +2.10]", "3", "2.5", "< 0.001", "0.040", "mean of branches: +0.70 [+0.10, +1.30]"),
    ]
    together, first, second = rows[2:5]
    verdict = "✗ contradicted | also after Holm"
    assert together[:4] == ["4a | top-1", "2 parts together", "every part holds", verdict]
    assert together[4] == f"{MINUS}2.25 | [{MINUS}3.75, {MINUS}0.75], 97.5 % interval"
    assert together[7:9] == ["0.020", "0.040"]
    assert first[1:6] == [
        *("masked − one3", f"not worse: above {MINUS}0.50", "✗ contradicted | tested"),
        *(f"{MINUS}2.25 | [{MINUS}3.50, {MINUS}1.00]", "3 | paired"),
    ]
    assert second[3:5] == ["✓ supported | tested", f"+0.31 | [{MINUS}0.20, +0.80]"]
    rules = {row[2] for row in rows}
    assert rules >= {
        f"nothing gained or lost: between {MINUS}0.50 and 0.50",
        "gains about 2.50 to 3.00: between 2.00 and 3.50",
        "kept: nothing changed",
        "not raised: below 0.001 nats",
        "not raised: below 0.001 ECE points",
    }
    lines = page.lines("claims-parts")
    below = {name: lines[name][2] for name in ("6 | decided once", "6c | top-1", "19 | decided once")}
    assert list(below.values()) == ["less: below 0"] * 3


def test_parts_have_units_of_their_own(page: Page) -> None:
    """A difference beside a count of images is none."""
    place = [row[0] for row in page.rows["claims-parts"]].index("3 | decided once")
    counted, likelihood, error, compared = page.rows["claims-parts"][place + 1 : place + 5]
    assert (counted[3:5], counted[9]) == (["✓ supported | counted", "0 images"], f"change of nll: {MINUS}0.0125")
    assert likelihood[4] == f"+0.0004 nats | [{MINUS}0.0002, +0.0009]"
    assert error[4] == f"{MINUS}0.250 ECE points | [{MINUS}0.400, {MINUS}0.100]"
    assert compared[4] == f"+0.10 | [{MINUS}0.20, +0.30]"


@pytest.mark.parametrize("name", ["mini", "made up"])
def test_a_question_never_adds_up_tested_and_counted_verdicts(name: str, study: Path, tmp_path: Path) -> None:
    """Beside a question stand its verdicts by what they rest on, and how many of the tested ones survive Holm."""
    path = tmp_path / "claims.json"
    files.write_json(path, synthetic.claims())
    claims = ledger.load(ROOT / "results/mini/claims.json" if name == "mini" else path, "mini")
    loaded = load(study / "tables")
    object.__setattr__(loaded, "claims", claims)
    questions = by_question(claims)
    items = section(content.compose(loaded)).items
    tables = [item for item in items if isinstance(item, Table) and item.id.startswith("question-")]
    assert len(tables) == len(questions)
    for table, members in zip(tables, questions.values(), strict=True):
        found, basis = Counter[tuple[str | None, str]](), ""
        for word, _ in table.counts:
            if word[0] in SIGNS.values():
                found[basis if word[0] not in "!–" else None, word[0]] = int(word[2:])
            elif word[1:-1] in [one.main.note for one in members]:
                assert "gain" in word or word == "(a loss)"  # how it differs from the claimed gain
            elif word.startswith("("):
                surviving = [one.main.survives_holm for one in members if one.main.survives_holm is not None]
                assert word == f"(Holm: {sum(surviving)} of {len(surviving)})".replace(" ", FIXED)
            else:
                basis = word
        assert found == Counter((one.main.basis, SIGNS[one.main.verdict]) for one in members)


def test_the_sentences_count_what_the_ledger_holds(study: Path, tmp_path: Path) -> None:
    """Claims, verdicts of each kind by what they rest on, those lost to Holm’s correction, and what is given."""
    entries = synthetic.claims()
    sentences = " ".join(section(shown(study, tmp_path, entries)).sentences)
    assert sentences.startswith(
        "11 claims on 9 questions have 14 verdicts (claims about accuracy are decided for top-1 and for top-5). "
        "8 of them are tested: 4 supported, 2 contradicted and 2 inconclusive. "
        "2 of them are counted exactly, in these runs and on these images: 2 supported. "
        "2 rest on fewer than 3 seeds, which say nothing about networks in general. "
        "2 not run. "
        "2 of 6 tested verdicts for or against a claim do not survive Holm’s correction. "
        "No interval allows for another choice of training images: there is one choice of 12,000 training images for "
        "all seeds, and no choice can be drawn again without training again."
    )

    for entry in entries:
        entry |= {"given": []}
        if entry["survives_holm"] is False:
            entry |= {"survives_holm": True, "p_holm": 0.04}
    calm = " ".join(section(shown(study, tmp_path, entries)).sentences)
    assert "All of 6 tested verdicts for or against a claim survive Holm’s correction" in calm
    assert "choice of" not in calm


def test_one_is_not_many(study: Path, tmp_path: Path) -> None:
    """A single image, a single epoch and a single verdict are written as such."""
    entries = [entry for entry in synthetic.claims() if entry["claim"] in ("exact", "faster")]
    for entry, value in zip(entries, (1, -1.0), strict=True):
        entry["estimate"] = entry["parts"][0]["estimate"] = value
    report = shown(study, tmp_path, entries)
    assert [row[3].text.split(", ")[0].split(" [")[0] for row in cells(report, "claims-table")] == [
        "1 image",
        f"{MINUS}1 epoch",
    ]
    assert "1 of 1 tested verdict for or against a claim does not survive" in " ".join(section(report).sentences)


def test_the_paper_names_claims_that_were_not_run_without_a_row(composed: Report) -> None:
    """Its table has the claims with results; the caption has the numbers of the others, and the page has all."""
    entries = {entry["number"]: entry["verdict"] for entry in reversed(synthetic.claims())}  # top-1 comes first
    (table,) = [item for item in section(composed).items if isinstance(item, Table) and item.id == "claims-table"]
    absent = [number for number in reversed(entries) if entries[number] == "not run"]
    assert absent
    assert table.caption.endswith(f" Not run in this study: {', '.join(absent)}.")
    assert {row.cells[0].text for row in table.rows} == set(entries) - set(absent)


def test_a_ledger_without_claims_makes_no_section(study: Path, tmp_path: Path) -> None:
    """Such a report has results all the same."""
    ids = [one.id for one in shown(study, tmp_path, []).sections]
    assert "claims" not in ids
    assert "results" in ids


# Refusals ------------------------------------------------------------------------------------------


def test_a_report_without_its_ledger_says_what_to_run(study: Path, tmp_path: Path) -> None:
    """The command is named in one line."""
    (tmp_path / "tables").symlink_to(study / "tables")
    with pytest.raises(CoopNetError, match=r"claims\.json is missing; run `coopnet claims mini` first$"):
        report.render(tmp_path / "tables", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _set(place: int, key: str, value: Any) -> Callable[[Entries], Any]:
    return lambda entries: entries[place].update({key: value})


def _set_part(place: int, key: str, value: Any) -> Callable[[Entries], Any]:
    return lambda entries: entries[place]["parts"][0].update({key: value})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_set(0, "verdict", "likely"), "one_over_baseline/top1, verdict"),
        (_set(0, "estimate", "1.23"), "one_over_baseline/top1, estimate"),
        (_set(0, "estimate", None), "lacks an estimate"),
        (_set(0, "n", 0), "lacks an estimate"),
        (_set(0, "parts", []), "one_over_baseline/top1, parts"),
        (_set(0, "n", -1), "one_over_baseline/top1, n"),
        (_set(0, "interval", [1.0]), "one_over_baseline/top1, interval"),
        (_set(0, "interval", [2.1, 0.4]), "lower end above"),
        (_set(0, "p", 0.06), "it is supported at p = 0.06"),
        (_set(0, "p", None), "a tested verdict has a p value"),
        (_set(0, "basis", "counted"), "a tested verdict has a p value"),
        (_set(0, "basis", None), "on the basis of nothing"),
        (_set(0, "survives_holm", None), "survives_holm is None at a corrected p of 0.04"),
        (_set(0, "p_holm", None), "p and p_holm must both"),
        (_set(0, "p_holm", 0.06), "survives_holm is True"),
        (_set(0, "p_holm", 1.2), "one_over_baseline/top1, p_holm"),
        (_set(0, "unit", "miles"), "one_over_baseline/top1, unit"),
        (_set(0, "text", "Something else."), "one_over_baseline: its entries disagree"),
        (_set(0, "score", "top5"), "one_over_baseline: a score is decided twice"),
        (_set(0, "score", None), "one_over_baseline: a score is decided twice"),
        (_set(0, "claim", "gate"), "gate: its entries are not together"),
        (_set(2, "region", [0.0]), "growth/top1, region"),
        (_set(11, "n", 2), "gate/top1: .*not run, but has numbers"),
        (_set(11, "estimate", 0.2), "gate/top1: .*not run, but has numbers"),
        (_set_part(0, "kind", "nicer"), "one_over_baseline/top1, parts.0.kind"),
        (_set_part(0, "beside", [1]), "one_over_baseline/top1, parts.0.beside"),
        (_set_part(10, "target", None), "ensemble, parts.0: .*target"),
        (lambda entries: entries[3].pop("section"), "growth/top5, section"),
        (lambda entries: entries[3].pop("id"), "entry 3, id"),
    ],
)
def test_a_ledger_of_another_form_is_refused(damage: Callable[[Entries], Any], words: str, tmp_path: Path) -> None:
    """One line names the file, the entry, the field and the remedy."""
    entries = synthetic.claims()
    damage(entries)
    files.write_json(tmp_path / "claims.json", entries)
    with pytest.raises(CoopNetError, match=words) as refusal:
        ledger.load(tmp_path / "claims.json", "mini")
    assert re.fullmatch(r"\S*claims\.json is damaged: .*; run `coopnet claims mini` again", str(refusal.value))


@pytest.mark.parametrize("text", ["", "[{", "{}", "3", '[3, "x"]', '[{"id": "one"}]', "[NaN]"])
def test_a_damaged_ledger_is_refused(text: str, tmp_path: Path) -> None:
    """What is no list of decisions is refused in one line that names the file."""
    files.write_text(tmp_path / "claims.json", text)
    with pytest.raises(CoopNetError, match=r"claims\.json is damaged") as refusal:
        ledger.load(tmp_path / "claims.json", "mini")
    assert "\n" not in str(refusal.value)


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """NaN in the place of an estimate is no result."""
    text = json.dumps(synthetic.claims()).replace("1.23", "NaN")
    files.write_text(tmp_path / "claims.json", text)
    with pytest.raises(CoopNetError, match="one_over_baseline/top1, estimate"):
        ledger.load(tmp_path / "claims.json", "mini")


def test_a_field_that_nobody_writes_is_refused(tmp_path: Path) -> None:
    """A name of which a letter was changed is not taken for a field that is left out."""
    text = json.dumps(synthetic.claims()).replace('"caution"', '"cautioo"', 1)
    files.write_text(tmp_path / "claims.json", text)
    with pytest.raises(CoopNetError, match="one_over_baseline/top1, cautioo"):
        ledger.load(tmp_path / "claims.json", "mini")
