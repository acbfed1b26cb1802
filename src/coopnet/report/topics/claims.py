"""The ledger of claims: grouped by question, each claim with its variants and its top-5; and how each was decided."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coopnet.claims.decisions import FEWEST, Decision, Measured, Outcome, Part
from coopnet.claims.inference import LEVEL
from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.ledger import SCORES, SYMBOLS, Claim
from coopnet.report.topics import cells
from coopnet.report.wording import DOT, MINUS, count, listing, number

SOURCE = "../claims.json"
FIXED = "\u00a0"
"""A space at which no line breaks."""
LARGE = 100
"""Degrees of freedom from which on their decimals say nothing."""
TONES = {"supported": "yes", "contradicted": "no"}

SECTIONS = {"accuracy": "one", "voting": "one", "curves": "one", "compute": "cost"}
"""The report's section for each that `claims.yaml` names, where it has another name."""

QUESTIONS = {
    1: "Is a branch of ONE, or its ensemble, more accurate than the plain network?",
    2: "Is ONE’s ensemble at least as good as each of its branches?",
    3: "Which ways to grow keep predictions and calibration at transfer?",
    4: "Do grown networks, fine-tuned, match their parent and their control?",
    5: "Do more branches help?",
    6: "Is growing in two stages cheaper, or as accurate, as five branches from scratch?",
    7: "Does a vote of fewer branches rival all of them?",
    8: "Do merged and combined networks beat their parents and the control?",
    9: "Does an expanded branch beat the single branch and its control?",
    10: "Does it help to embed a branch among two that never count?",
    11: "What does an ensemble of independent networks gain?",
    12: "How much of that gain does distillation keep?",
    13: "What does self-distillation gain?",
    14: "Is the ensemble of the self-distilled the best of all?",
    15: "Does ONE need distillation?",
    16: "Does ONE need its gate?",
    17: "Does ONE need its shared trunk?",
    18: "Does a branch of ONE beat classical distillation and mutual learning?",
    19: "Does ONE match independent networks at less compute?",
    20: "Does the ramp-up of distillation help?",
    21: "Does a learning rate per module help?",
    22: "Does refitting help a merge?",
}
"""The questions by the number that their claims share; any other is asked in the words of its first claim."""


def section(tables: Tables, titles: Mapping[str, str]) -> Section | None:
    """The ledger, its counts, and every part of every claim; `titles` are those of the other sections, by id."""
    claims = tables.claims
    if not claims:
        return None
    decisions = [decision for claim in claims for decision in claim.decisions]
    sentences = [" ".join([*_verdicts(claims, decisions), *_certainty(decisions)])]
    groups = by_question(claims)
    items = [_question(number, members, titles, tables.names) for number, members in groups.items()]
    return Section("claims", "The ledger of claims", sentences, [*items, _summary(groups), _parts(decisions)])


def by_question(claims: Sequence[Claim]) -> dict[int, list[Claim]]:
    """Claims by the question that they answer together, in the file's order."""
    groups: dict[int, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(claim.question, []).append(claim)
    return groups


def anchor(claim: Claim) -> str:
    """The id of a claim's row."""
    return f"claim-{claim.main.number}"


# Sentences -----------------------------------------------------------------------------------------


def _verdicts(claims: Sequence[Claim], decisions: Sequence[Decision]) -> list[str]:
    """The number of verdicts of each kind; tested and counted verdicts are never added up."""
    several = " (claims about accuracy are decided for top-1 and for top-5)" if len(decisions) > len(claims) else ""
    questions = count(len(by_question(claims)), "question")
    sentences = [f"{count(len(claims), 'claim')} on {questions} have {count(len(decisions), 'verdict')}{several}."]
    tested = Counter[str](one.verdict for one in decisions if one.basis == "tested")
    counted = Counter[str](one.verdict for one in decisions if one.basis == "counted")
    for found, how in ((tested, "tested"), (counted, "counted exactly, in these runs and on these images")):
        if found:
            sentences.append(f"{found.total()} of them {'is' if found.total() == 1 else 'are'} {how}: {_tally(found)}.")
    if few := sum(one.basis == "too few seeds" for one in decisions):
        verb = "rests" if few == 1 else "rest"
        sentences.append(f"{few} {verb} on fewer than {FEWEST} seeds, which say nothing about networks in general.")
    if rest := Counter[str](one.verdict for one in decisions if not one.has_results):
        sentences.append(f"{_tally(rest).capitalize()}.")
    return sentences


def _tally(found: Counter[str]) -> str:
    return listing(f"{found[verdict]} {verdict}" for verdict in SYMBOLS if found[verdict])


def _certainty(decisions: Sequence[Decision]) -> list[str]:
    """What Holm’s correction leaves, and what intervals take as given."""
    decided = [decision for decision in decisions if decision.survives_holm is not None]
    lost = sum(not decision.survives_holm for decision in decided)
    sentences = []
    if decided:
        verb = "survive" if not lost else "does not survive" if lost == 1 else "do not survive"
        sentences.append(
            f"{lost or 'All'} of {count(len(decided), 'tested verdict')} for or against a claim {verb} Holm’s "
            "correction."
        )
    shared = dict.fromkeys(words for one in decisions if one.has_results for words in one.given if "all seeds" in words)
    if shared:
        sentences.append(
            f"No interval allows for another choice of training images: there is {listing(shared)}, and no choice can "
            "be drawn again without training again."
        )
    return sentences


# The ledger ----------------------------------------------------------------------------------------


def _asked(number: int, members: Sequence[Claim]) -> str:
    return QUESTIONS.get(number, members[0].main.text)


def _counts(members: Sequence[Claim]) -> list[tuple[str, str]]:
    """The verdicts of a question, with their tones. Tested and counted verdicts stand apart and are never added up."""
    shown: list[tuple[str, str]] = []
    for basis in ("tested", "counted", "too few seeds", None):
        decisions = [claim.main for claim in members if claim.main.basis == basis]
        found = Counter[str](decision.verdict for decision in decisions)
        if basis and found:
            shown.append((basis, ""))
        shown += [
            (f"{SYMBOLS[verdict]}{FIXED}{found[verdict]}", TONES.get(verdict, ""))
            for verdict in SYMBOLS
            if found[verdict]
        ]
        sizes = dict.fromkeys(one.note for one in decisions if one.note and any(p.kind == "about" for p in one.parts))
        shown += [(f"({size})", "") for size in sizes]
        corrected = [one.survives_holm for one in decisions if one.survives_holm is not None]
        if corrected:
            shown.append((f"(Holm:{FIXED}{sum(corrected)}{FIXED}of{FIXED}{len(corrected)})", ""))
    return shown


def _question(number: int, members: Sequence[Claim], titles: Mapping[str, str], names: Sequence[str]) -> Table:
    """One question of the page: its claims, a line each."""
    columns = [
        Column("", numeric=False),
        Column("Claim", numeric=False, wide=True),
        *(
            Column(label, group, numeric=False)
            for group in ("top-1, or decided once", "top-5")
            for label in ("verdict", "estimate")
        ),
        Column("Rests on", numeric=False),
    ]
    rows = [Row(line(claim, titles, names), anchor(claim)) for claim in members]
    caption = f"Claims on question {number}."
    title = f"{number}. {_asked(number, members)}"
    return Table(
        f"question-{number}", caption, columns, rows, SOURCE, title=title, counts=_counts(members), where="page"
    )


def _summary(groups: Mapping[int, Sequence[Claim]]) -> Table:
    """The ledger of the paper: every claim that has results, decided once or for top-1."""
    columns = [
        Column("", numeric=False),
        Column("Claim", numeric=False, wide=True),
        Column("verdict", numeric=False),
        Column("estimate, 95 % interval", numeric=False, wide=True),
    ]
    rows: list[Row] = []
    headings = {}
    for asked, members in groups.items():
        shown = [claim for claim in members if claim.main.verdict != "not run"]
        if shown:
            headings[len(rows)] = _asked(asked, members)
        rows += [
            Row([Cell(one.number), Cell(one.text, _remark(one)), *map(_inline, _outcome(one))])
            for one in (claim.main for claim in shown)
        ]
    absent = [claim.main.number for members in groups.values() for claim in members if claim.main.verdict == "not run"]
    caption = (
        "The ledger. Differences in percentage points, or in the unit named, over n seeds (of two groups, the "
        "smaller). Beside it stands whether it survives Holm’s correction, or that it was counted. Top-5 and all "
        "parts: appendix." + (f" Not run in this study: {', '.join(absent)}." if absent else "")
    )
    return Table("claims-table", caption, columns, rows, SOURCE, headings, where="paper")


def _inline(cell: Cell) -> Cell:
    """The same in one line."""
    return replace(cell, text=f"{cell.text}, {cell.detail}" if cell.detail else cell.text, detail="")


def line(claim: Claim, titles: Mapping[str, str], names: Sequence[str] = ()) -> list[Cell]:
    """The cells of a claim: number, text, verdict and estimate for each score, and what it rests on.

    That is a section, and the experiments among `names` that it compares, each with the row that has its results.
    """
    by_score = {decision.score: decision for decision in claim.decisions}
    first = by_score.get("top1") or by_score.get(None)
    rests = Cell("–")
    place = SECTIONS.get(claim.main.section, claim.main.section)
    compared = {word for part in claim.main.parts for word in re.findall(r"\w+", part.text)}
    links = [(titles[place].split(":")[0], place)] if place in titles else []
    links += [(name, cells.anchor(name)) for name in names if name in compared and claim.main.has_results]
    if links:
        rests = Cell("", links=links)
    return [
        Cell(claim.main.number),
        Cell(claim.main.text, DOT.join([claim.main.source, *remarks(claim.decisions)])),
        *_outcome(first),
        *_outcome(by_score.get("top5")),
        rests,
    ]


def remarks(decisions: Sequence[Decision]) -> list[str]:
    """Notes, and what is missing; the score is named where the note is about one score alone."""
    found = {decision.score: _remark(decision) for decision in decisions}
    if len(set(found.values())) == 1:
        return [remark] if (remark := next(iter(found.values()))) else []
    return [f"{SCORES[score]}: {remark}" for score, remark in found.items() if remark]


def _remark(decision: Decision) -> str:
    missing = f"needs {listing(decision.missing)}" if decision.missing else ""
    given = f"given {listing(decision.given)}" if decision.given else ""
    return "; ".join(words for words in (decision.note, decision.caution, missing, given) if words)


def _outcome(decision: Decision | None) -> list[Cell]:
    """Verdict and estimate."""
    if decision is None:
        return [Cell(""), Cell("")]
    parts = f"weakest of {len(decision.parts)}{FIXED}parts" if len(decision.parts) > 1 and decision.interval else ""
    details = [_level(decision), parts, f"n{FIXED}={FIXED}{decision.n}"]
    return [_verdict(decision, decision.qualifier), _estimate(decision, ", ".join(filter(None, details)))]


def _level(decision: Decision) -> str:
    """The level of an interval that allows for several parts; nothing for the usual one."""
    return "" if decision.level == LEVEL else f"{round(100 * decision.level, 2):g}{FIXED}% interval"


def _verdict(statement: Outcome, detail: str = "") -> Cell:
    verdict = statement.verdict
    return Cell(f"{SYMBOLS[verdict]}{FIXED}{verdict}", detail, TONES.get(verdict, ""))


def _estimate(measured: Outcome, more: str = "") -> Cell:
    """A value with its interval below it; a dash where nothing was measured, or the value is infinite."""
    if not measured.has_results:
        return Cell("–")
    value = "–" if measured.estimate is None else _amount(measured.estimate, measured.unit)
    return Cell(value, ", ".join(words for words in (_interval(measured, measured.unit), more) if words))


def _interval(measured: Measured, unit: str) -> str:
    if not measured.interval:
        return ""
    low, high = measured.interval
    lower = f"{MINUS}∞" if low is None else _value(low, unit)
    return f"[{lower},{FIXED}{'∞' if high is None else _value(high, unit)}]"


def _amount(value: float, unit: str) -> str:
    word = {"points": "", "change": "%"}.get(unit, unit)
    if abs(value) == 1:
        word = {"images": "image", "epochs": "epoch"}.get(word, word)
    return f"{_value(value, unit)} {word}".rstrip()


def _value(value: float, unit: str) -> str:
    """A value as text: counts without decimals unless they are means, differences with a sign, changes in percent."""
    signed = unit != "images"
    match unit:
        case "images" | "epochs":
            places = 0 if value.is_integer() else 1
        case "change":
            value, places = 100 * value, 1
        case "nats" | "":
            places = 4
        case "ECE points":
            places = 3
        case _:
            places = 2
    return number(value, places, sign=signed)


# How each was decided ------------------------------------------------------------------------------


def _parts(decisions: Sequence[Decision]) -> Table:
    labels = ("Claim", "What is compared", "Holds if", "Verdict", "Estimate", "n", "df", "p", "p (Holm)", "Beside it")
    wide = ("What is compared", "Holds if", "Beside it")
    columns = [Column(label, numeric=False, wide=label in wide) for label in labels]
    rows: list[Row] = []
    for decision in decisions:
        lines = [_part(part) for part in decision.parts]
        if len(lines) != 1:
            lines.insert(0, _together(decision))
        elif decision.caution:
            lines[0][0] = replace(lines[0][0], detail=_remark(decision))
        lines[0] = [Cell(decision.number, SCORES[decision.score]), *lines[0]]
        lines[0][8] = Cell(_probability(decision.p_holm))
        rows += [Row(lines[0]), *(Row([Cell(""), *line]) for line in lines[1:])]
    caption = (
        "How each claim was decided. What is compared, where its 95 % interval has to lie, and where it lies. df: "
        "effective degrees of freedom over seeds and images; with “interval: images”, the interval is the one over "
        "images alone, because that is the wider or the only one. p is two-sided, and at most 0.05 exactly where a "
        "verdict is decided. A claim of several parts holds when every part does, and reports its weakest part; where "
        "each of them could refute it, p and interval of all together allow for that. p (Holm) is corrected for the "
        "number of verdicts; those on too few seeds, or with a failed run, count as if their p were 1."
    )
    return Table("claims-parts", caption, columns, rows, SOURCE, title="How each was decided", where="appendix")


def _together(decision: Decision) -> list[Cell]:
    """The line of all parts together."""
    return [
        Cell(f"{len(decision.parts)} parts together", _remark(decision)),
        Cell("every part holds"),
        _verdict(decision, decision.qualifier),
        _estimate(decision, _level(decision)),
        Cell(str(decision.n) if decision.n else "–"),
        _freedom(decision),
        Cell(_probability(decision.p)),
        Cell(""),
        Cell(""),
    ]


def _part(part: Part) -> list[Cell]:
    beside_unit = "" if part.kind == "predictions_kept" else part.unit  # scores of several units, beside a count
    beside = [
        f"{name}: {_amount(other.estimate, beside_unit)} {_interval(other, beside_unit)}".rstrip()
        for name, other in part.beside.items()
        if other.estimate is not None
    ]
    own = [words for words in part.given if "all seeds" not in words]  # which is said of all intervals, once
    given = f"given {listing(own)}" if own else ""
    return [
        Cell(part.text, "; ".join(words for words in (part.note, given) if words)),
        Cell(_rule(part)),
        _verdict(part, part.basis or ""),
        _estimate(part),
        Cell(str(part.n) if part.n else "–", "paired" if part.paired else ""),
        _freedom(part),
        Cell(_probability(part.p)),
        Cell(""),
        Cell("; ".join(beside)),
    ]


def _freedom(found: Outcome) -> Cell:
    freedom = "–" if found.df is None else number(found.df, 1 if found.df < LARGE else 0)
    return Cell(freedom, "interval: images" if found.over_images else "")


def _rule(part: Part) -> str:
    """Where the interval has to lie, in words."""
    low, high = part.region or (None, None)
    lower, upper = (number(edge, 3 if part.unit in ("nats", "ECE points") else 2) for edge in (low, high))
    match part.kind:
        case "better":
            return "better: above 0"
        case "not_worse":
            return f"not worse: above {lower}"
        case "nothing":
            return f"nothing gained or lost: between {lower} and {upper}"
        case "about":
            target = " to ".join(dict.fromkeys(number(value) for value in part.target or []))
            return f"gains about {target}: between {lower} and {upper}"
        case "predictions_kept":
            return "kept: nothing changed"
        case "calibration_kept":
            return f"not raised: below {upper} {part.unit}"
        case _:
            return "less: below 0"


def _probability(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else number(value, 3)
