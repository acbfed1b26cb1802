"""Which claims hold: the ledger, one line per claim, and how each of them was decided."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from coopnet.report.document import Cell, Column, Picture, Section, Table
from coopnet.report.figures.claims import pages
from coopnet.report.frames import Tables
from coopnet.report.ledger import FEW, SCORES, SYMBOLS, UNDECIDED, Claim, Decision, Measured, Part
from coopnet.report.wording import DOT, MINUS, count, listing, number, span

SOURCE = "../claims.json"
FIXED = "\u00a0"
MARKUP = re.compile(r"[\\`*\[\]<>&$~]|(?<!\w)_|_(?!\w)")
"""What Markdown would read as more than a letter; between letters, _ is one."""
"""A space at which no line breaks."""
TONES = {"supported": "yes", "contradicted": "no"}


def section(tables: Tables, titles: Mapping[str, str]) -> Section | None:
    """The ledger, its picture, and every part of every claim.

    Args:
        tables: the study's tables.
        titles: titles of the report's other sections, by id.
    """
    claims = tables.claims
    if not claims:
        return None
    decisions = [decision for claim in claims for decision in claim.decisions]
    sentences = [_verdicts(claims, decisions), *_certainty(decisions), _scale(tables)]
    return Section(
        "claims",
        "Which claims hold",
        sentences,
        [_ledger(claims, titles), *_pictures(claims), _parts(decisions)],
    )


# Sentences -----------------------------------------------------------------------------------------


def _verdicts(claims: Sequence[Claim], decisions: Sequence[Decision]) -> str:
    """How many verdicts of each kind there are."""
    found = Counter[str](decision.verdict for decision in decisions)
    several = " (claims about accuracy are decided for top-1 and for top-5)" if len(decisions) > len(claims) else ""
    kinds = [f"{found[verdict]} {verdict}" for verdict in SYMBOLS if found[verdict]]
    return f"{count(len(claims), 'claim')} with {count(len(decisions), 'verdict')}{several}: {listing(kinds)}."


def _certainty(decisions: Sequence[Decision]) -> list[str]:
    """What Holm's correction leaves, and what rests on too few seeds."""
    tested = [decision for decision in decisions if decision.tested]
    lost = sum(decision.holm != decision.verdict for decision in tested)
    few = sum(FEW in decision.note for decision in decisions)
    sentences = []
    if tested:
        verb = "survive" if not lost else "does not survive" if lost == 1 else "do not survive"
        sentences.append(
            f"{lost or 'All'} of {count(len(tested), 'tested verdict')} for or against a claim {verb} Holm's "
            "correction over the whole ledger."
        )
    if few:
        verb = "rests" if few == 1 else "rest"
        sentences.append(f"{count(few, 'verdict')} {verb} on fewer than three seeds: {FEW}.")
    return sentences


def _scale(tables: Tables) -> str:
    """On what the claims were decided."""
    rows = tables.experiments
    networks = listing(dict.fromkeys(row["backbone"] for row in rows))
    images = span(row["images"]["train"] for row in rows)
    epochs = count(max(row["epochs"] for row in rows), "epoch")
    return (
        f"Decided at the scale of this study: {networks} on {listing(tables.by_dataset(tables.names))}, {images} "
        f"training images, at most {epochs} of training."
    )


# The ledger ----------------------------------------------------------------------------------------


def _ledger(claims: Sequence[Claim], titles: Mapping[str, str]) -> Table:
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
    caption = (
        "One line per claim. Estimates are differences in percentage points unless a unit stands there, with the "
        "interval that decides, over n seeds. Below a verdict for or against a claim stands whether it survives "
        "Holm's correction, or that it was counted and not tested."
    )
    return Table("claims-table", caption, columns, [_line(claim, titles) for claim in claims], SOURCE)


def markdown(claims: Sequence[Claim]) -> str:
    """The ledger as a table in Markdown, for a README: number, claim, and the outcome for each score."""
    lines = ["| | claim | top-1, or decided once | top-5 |", "| --- | --- | --- | --- |"]
    for claim in claims:
        number, text, *outcomes = (cell.text for cell in _line(claim, {})[:-1])
        text = MARKUP.sub(r"\\\g<0>", text)
        details = [cell.detail for cell in _line(claim, {})[2:-1]]
        verdict, estimate, fifth, another = (
            " ".join(filter(None, [said, detail])) for said, detail in zip(outcomes, details, strict=True)
        )
        cells = [number, text, f"{verdict} {estimate}", f"{fifth} {another}"]
        lines.append(f"| {' | '.join(cell.replace('|', '/').strip(' –') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _line(claim: Claim, titles: Mapping[str, str]) -> list[Cell]:
    by_score = {decision.score: decision for decision in claim.decisions}
    first = by_score.get("top1") or by_score.get(None)
    rests = Cell("–")
    if claim.section in titles:
        rests = Cell(titles[claim.section].split(":")[0], link=claim.section)
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


# Pictures ------------------------------------------------------------------------------------------


def _pictures(claims: Sequence[Claim]) -> list[Picture]:
    figures = pages(claims)
    drawn = sum(len(shown) for shown in figures.values())
    none_run = sum(not any(decision.ran for decision in claim.decisions) for claim in claims)
    others = len(claims) - drawn - none_run
    lost = any(decision.verdict == "not decided" for claim in claims for decision in claim.decisions)
    verb = "not run or not decided" if lost else "not run"
    left = [f"{count(none_run, 'claim')} {verb}" if none_run else "", f"{others} in other units" if others else ""]
    without = listing(words for words in left if words)
    return [
        Picture(
            name,
            f"The interval that decided each claim ({shown[0].number} to {shown[-1].number}): circles for top-1, "
            "squares for top-5, triangles where a claim is decided once; filled where it is supported, crossed where "
            "it is contradicted, open where it is inconclusive, which the sign at the right says again."
            + (f" Not drawn: {without}." if without else ""),
            SOURCE,
        )
        for name, shown in figures.items()
    ]


# How each was decided ------------------------------------------------------------------------------


def _parts(decisions: Sequence[Decision]) -> Table:
    labels = ("Claim", "What is compared", "Holds if", "Verdict", "Estimate", "n", "p", "p (Holm)", "Beside it")
    wide = ("What is compared", "Holds if", "Beside it")
    columns = [Column(label, numeric=False, wide=label in wide) for label in labels]
    rows: list[list[Cell]] = []
    rules = []
    for decision in decisions:
        rules.append(len(rows))
        lines = [_part(decision, part) for part in decision.parts]
        if len(lines) != 1:
            lines.insert(0, _together(decision))
        lines[0] = [Cell(decision.number, SCORES[decision.score]), *lines[0]]
        lines[0][7] = Cell(_probability(decision.p_holm))
        rows += [lines[0], *([Cell(""), *line] for line in lines[1:])]
    caption = (
        "How each claim was decided: what is compared, what the interval must show, and what it shows. A claim of "
        "several parts holds when every part does, and reports the part that decides. p is that of the comparison "
        "alone, p (Holm) corrected over the ledger."
    )
    return Table("claims-parts", caption, columns, rows, SOURCE, rules, folded=True)


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
