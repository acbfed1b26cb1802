"""The ledger of claims: grouped by question, each claim with its variants and its top-5; and how each was decided."""

from collections import Counter
from collections.abc import Mapping, Sequence

from coopnet.report.document import Cell, Column, Row, Section, Table
from coopnet.report.frames import Tables
from coopnet.report.ledger import FEWEST, SCORES, SYMBOLS, UNDECIDED, Claim, Decision, Measured, Part
from coopnet.report.wording import DOT, MINUS, count, listing, number

SOURCE = "../claims.json"
FIXED = "\u00a0"
"""A space at which no line breaks."""
TONES = {"supported": "yes", "contradicted": "no"}

SECTIONS = {
    **{"accuracy": "one", "voting": "one", "curves": "one", "step0": "transfer", "compute": "cost"},
}
"""The report's section for each that `claims.yaml` names, where it has another name."""

QUESTIONS = {
    1: "Is a single branch of ONE more accurate than the plain network?",
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
    22: "Is refitting the best way to merge?",
}
"""The questions by the number that their claims share; any other is asked in the words of its first claim."""


def section(tables: Tables, titles: Mapping[str, str]) -> Section | None:
    """The ledger, its counts, and every part of every claim.

    Args:
        tables: the study's tables.
        titles: titles of the report's other sections, by id.
    """
    claims = tables.claims
    if not claims:
        return None
    decisions = [decision for claim in claims for decision in claim.decisions]
    sentences = [
        f"{_verdicts(claims)} A claim holds when its interval lies on the claim’s side of a threshold stated "
        "beforehand; counts of predictions are stated as counts. "
        f"{' '.join(_certainty(decisions))}".strip()
    ]
    groups = by_question(claims)
    items = [_question(number, members, titles) for number, members in groups.items()]
    return Section("claims", "The ledger of claims", sentences, [*items, _summary(groups), _parts(decisions)])


def by_question(claims: Sequence[Claim]) -> dict[int, list[Claim]]:
    """Claims by the question that they answer together, in the file's order."""
    groups: dict[int, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(claim.question, []).append(claim)
    return groups


def anchor(claim: Claim) -> str:
    """The id of a claim's row."""
    return f"claim-{claim.number}"


# Sentences -----------------------------------------------------------------------------------------


def _verdicts(claims: Sequence[Claim]) -> str:
    """How many claims of each verdict there are, by what speaks for each."""
    found = Counter[str](claim.main.verdict for claim in claims)
    kinds = [f"{found[verdict]} {verdict}" for verdict in SYMBOLS if found[verdict]]
    questions = len({claim.question for claim in claims})
    head = f"{count(len(claims), 'claim')} on {count(questions, 'question')}"
    return f"{head}: {listing(kinds)} (by top-1, or decided once)."


def _certainty(decisions: Sequence[Decision]) -> list[str]:
    """What Holm's correction leaves, and what rests on too few seeds."""
    tested = [decision for decision in decisions if decision.tested]
    lost = sum(decision.holm != decision.verdict for decision in tested)
    few = sum(decision.ran and decision.n < FEWEST for decision in decisions)
    sentences = []
    if tested:
        verb = "survive" if not lost else "does not survive" if lost == 1 else "do not survive"
        sentences.append(
            f"{lost or 'All'} of {count(len(tested), 'tested verdict')} for or against a claim {verb} Holm’s "
            "correction over the whole ledger."
        )
    if few:
        verb = "rests" if few == 1 else "rest"
        sentences.append(
            f"{count(few, 'verdict')} {verb} on fewer than {FEWEST} seeds and {'is' if few == 1 else 'are'} undecided."
        )
    return sentences


# The ledger ----------------------------------------------------------------------------------------


def _asked(number: int, members: Sequence[Claim]) -> str:
    return QUESTIONS.get(number, members[0].text)


def _counts(members: Sequence[Claim]) -> list[tuple[str, str]]:
    found = Counter[str](claim.main.verdict for claim in members)
    return [
        (f"{SYMBOLS[verdict]}{FIXED}{found[verdict]}", TONES.get(verdict, "")) for verdict in SYMBOLS if found[verdict]
    ]


def _question(number: int, members: Sequence[Claim], titles: Mapping[str, str]) -> Table:
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
    rows = [Row(line(claim, titles), anchor(claim)) for claim in members]
    caption = f"Claims on question {number}."
    title = f"{number}. {_asked(number, members)}"
    return Table(
        f"question-{number}", caption, columns, rows, SOURCE, title=title, counts=_counts(members), where="page"
    )


def _summary(groups: Mapping[int, Sequence[Claim]]) -> Table:
    """The ledger of the paper: every claim, decided once or for top-1."""
    columns = [
        Column("", numeric=False),
        Column("Claim", numeric=False, wide=True),
        Column("verdict", numeric=False),
        Column("estimate, 95 % interval", numeric=False),
    ]
    rows: list[Row] = []
    headings = {}
    for asked, members in groups.items():
        headings[len(rows)] = _asked(asked, members)
        rows += [Row([Cell(claim.number), Cell(claim.text), *_outcome(claim.main)]) for claim in members]
    caption = (
        "The ledger. Differences in percentage points unless a unit stands there, over n seeds. Below a verdict stands "
        "whether it survives Holm’s correction, or that it was counted. Top-5 and all parts: appendix."
    )
    return Table("claims-table", caption, columns, rows, SOURCE, headings, where="paper")


def line(claim: Claim, titles: Mapping[str, str]) -> list[Cell]:
    """The cells of a claim: number, text, verdict and estimate for each score, and the section it rests on."""
    by_score = {decision.score: decision for decision in claim.decisions}
    first = by_score.get("top1") or by_score.get(None)
    rests = Cell("–")
    place = SECTIONS.get(claim.section, claim.section)
    if place in titles:
        rests = Cell(titles[place].split(":")[0], link=place)
    return [
        Cell(claim.number),
        Cell(claim.text, DOT.join([claim.source, *_remarks(claim.decisions)])),
        *_outcome(first),
        *_outcome(by_score.get("top5")),
        rests,
    ]


def _remarks(decisions: Sequence[Decision]) -> list[str]:
    """Notes, and what is missing; with its score where it is not the same for all."""
    remarks = {decision.score: _remark(decision) for decision in decisions}
    if len(set(remarks.values())) == 1:
        return [remark] if (remark := next(iter(remarks.values()))) else []
    return [f"{SCORES[score]}: {remark}" for score, remark in remarks.items() if remark]


def _remark(decision: Decision) -> str:
    missing = f"needs {listing(decision.missing)}" if decision.missing else ""
    return "; ".join(words for words in (decision.note, missing) if words)


def _outcome(decision: Decision | None) -> list[Cell]:
    """Verdict and estimate."""
    if decision is None:
        return [Cell(""), Cell("")]
    return [
        _verdict(decision, _corrected(decision)),
        _estimate(decision, _unit(decision), f"n{FIXED}={FIXED}{decision.n}"),
    ]


def _corrected(decision: Decision) -> str:
    """What Holm's correction leaves of a verdict for or against a claim; a plain count is no test."""
    if not decision.decided:
        return ""
    if not decision.tested:
        return "counted"
    return "also after Holm" if decision.holm == decision.verdict else "not after Holm"


def _verdict(statement: Decision | Part, detail: str = "") -> Cell:
    verdict = statement.verdict
    return Cell(f"{SYMBOLS[verdict]}{FIXED}{verdict}", detail, TONES.get(verdict, ""))


def _unit(decision: Decision, part: Part | None = None) -> str:
    """What a part, or the one that decides, is counted in; predictions that are kept are images."""
    part = part or decision.deciding
    if part and part.kind in ("kept", "predictions_kept"):
        return "images"
    return (part and part.unit) or decision.unit


def _estimate(measured: Decision | Part, unit: str, more: str = "") -> Cell:
    """A value, its interval below it; a dash where nothing was measured or what was is infinite."""
    if measured.verdict in UNDECIDED:
        return Cell("–")
    value = "–" if measured.estimate is None else _amount(measured.estimate, unit)
    return Cell(value, ", ".join(words for words in (_interval(measured, unit), more) if words))


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
    """Counts have no places unless they are means; differences have their sign; a change is a share, in percent."""
    signed = unit != "images"
    match unit:
        case "images" | "epochs":
            places = 0 if value.is_integer() else 1
        case "change":
            value, places = 100 * value, 1
        case "nats" | "":
            places = 4
        case _:
            places = 2
    return number(value, places, sign=signed)


# How each was decided ------------------------------------------------------------------------------


def _parts(decisions: Sequence[Decision]) -> Table:
    labels = ("Claim", "What is compared", "Holds if", "Verdict", "Estimate", "n", "p", "p (Holm)", "Beside it")
    wide = ("What is compared", "Holds if", "Beside it")
    columns = [Column(label, numeric=False, wide=label in wide) for label in labels]
    rows: list[Row] = []
    for decision in decisions:
        lines = [_part(decision, part) for part in decision.parts]
        if len(lines) != 1:
            lines.insert(0, _together(decision))
        lines[0] = [Cell(decision.number, SCORES[decision.score]), *lines[0]]
        lines[0][7] = Cell(_probability(decision.p_holm))
        rows += [Row(lines[0]), *(Row([Cell(""), *line]) for line in lines[1:])]
    caption = (
        "How each claim was decided: what is compared, what the interval must show, and what it shows. A claim of "
        "several parts holds when every part does, and reports the part that decides. p is that of the comparison "
        "alone, p (Holm) corrected over the ledger."
    )
    return Table("claims-parts", caption, columns, rows, SOURCE, title="How each was decided", where="appendix")


def _together(decision: Decision) -> list[Cell]:
    """The line of all parts together, or of a claim that has none because it was not run."""
    what = f"{len(decision.parts)} parts together" if decision.parts else decision.text
    return [
        Cell(what, _remark(decision)),
        Cell("every part holds" if decision.parts else "–"),
        _verdict(decision),
        _estimate(decision, _unit(decision)),
        Cell(str(decision.n) if decision.n else "–"),
        Cell(_probability(decision.p)),
        Cell(""),
        Cell(""),
    ]


def _part(decision: Decision, part: Part) -> list[Cell]:
    unit = _unit(decision, part)
    beside_unit = "" if "kept" in part.kind else unit  # scores of several units, beside a count
    beside = [
        f"{name}: {_amount(other.estimate, beside_unit)} {_interval(other, beside_unit)}".rstrip()
        for name, other in part.beside.items()
        if other.estimate is not None
    ]
    return [
        Cell(part.text, part.note),
        Cell(_rule(decision, part)),
        _verdict(part),
        _estimate(part, unit),
        Cell(str(part.n) if part.n else "–", "paired" if part.paired else ""),
        Cell(_probability(part.p)),
        Cell(""),
        Cell("; ".join(beside)),
    ]


def _rule(decision: Decision, part: Part) -> str:
    """When the part holds."""
    match part.kind:
        case "better":
            return "better: lower bound above 0"
        case "not_worse":
            return f"not worse: lower bound above {MINUS}{number(decision.margin)}"
        case "nothing":
            margin = number(decision.margin)
            return f"nothing gained or lost: interval between {MINUS}{margin} and {margin}"
        case "about":
            target = " to ".join(dict.fromkeys(number(value) for value in part.target or []))
            return f"gains about {target or 'as much as claimed'}: lower bound above 0, and the interval meets it"
        case "kept" | "predictions_kept":
            return "kept: nothing changed"
        case "calibration_kept":
            return "kept: neither NLL nor ECE raised"
        case _:
            return "less: upper bound below 0"


def _probability(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else number(value, 3)
