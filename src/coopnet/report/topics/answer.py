"""The first screen: what was run, what was found, how sure that is, and what this scale cannot show.

Each answer is one sentence, made by rule from the ledger's verdicts and from the differences to a control.
Sentences and figure say the same of every difference: its finding, which its interval decides.
"""

import itertools
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from coopnet.claims.decisions import FEWEST, Decision, Part
from coopnet.claims.entries import MARGIN
from coopnet.report import drawing, starts
from coopnet.report.differences import GROUPS, Difference, differences
from coopnet.report.document import Answer, Picture
from coopnet.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PAPER
from coopnet.report.frames import Tables, records
from coopnet.report.topics import failed, growth
from coopnet.report.topics.cells import FEW
from coopnet.report.wording import MINUS, count, interval, listing, number, span, spans

PUBLISHED_EPOCHS, PART_3_EPOCHS = 300, 100
"""Epochs of the published training from scratch: ONE paper, section 4, and Part 3's. Shorter studies mention them."""
ROWS = 32
"""Most rows of the first figure. If there are more, only experiments named by a claim are drawn."""

ASKED: Mapping[str, tuple[str, str, str]] = {
    "growth": ("Growth against its control", "way to grow", "the continued-training control"),
    "merging": (
        "Merging",
        "merged or combined network",
        "the plain ensemble of the parents’ continued-training controls",
    ),
    "expansion": ("Expansion", "expanded network", "the continued-training control"),
    "one": ("ONE against the baseline", "network of ONE", "the plain network"),
    "ablation": ("Parts of ONE", "network with a part of ONE", "the same network without it"),
    "distillation": (
        "Part 3: ensembles and distillation",
        "ensemble or student",
        "a single network (a member, or the student without a teacher)",
    ),
}
"""The groups of differences on the first screen: the question, the kind of network, and its control."""
SECTIONS = {"expansion": "merging", "ablation": "one"}
"""The section of a group, unless it has the group's name."""
LOSSES = {
    "small": ("by less", "smaller"),
    "loss": ("maybe by more", "possibly larger"),
    "large": ("by more", "larger"),
}
"""Findings of a loss, from small to large: how it compares with the margin, in a sentence and in a count."""


def decides(tables: Tables) -> bool:
    """Whether the study can decide anything: some claim rests on enough seeds, if there are claims at all."""
    return not tables.claims or any(
        one.has_results and one.n >= FEWEST for claim in tables.claims for one in claim.decisions
    )


def run(tables: Tables) -> str:
    """What was run, in one line."""
    rows = {row["name"]: row for row in tables.experiments}
    scratch = [row["epochs"] for row in rows.values() if row["start"] == "random" and row["epochs"]]
    parts = []
    for data, names in tables.by_dataset(tables.names).items():
        images = span(rows[name]["images"]["train"] for name in names)
        parts.append(f"{_mostly([rows[name]['backbone'] for name in names])} on {data} ({images} training images)")
    parts = [
        listing(parts),
        f"{spans(scratch, 'epoch')} from scratch" if scratch else "",
        f"{count(len(rows), 'experiment')} in {count(tables.study['runs'], 'run')}",
        f"{spans((len(row['seeds']) for row in rows.values()), 'seed')} each",
    ]
    return ", ".join(part for part in parts if part) + "."


def _mostly(names: Sequence[str]) -> str:
    """`ResNet-8`, and the number of others."""
    first, *others = [name for name, _ in Counter(names).most_common()]
    return f"{first} (and {count(len(others), 'other network')})" if others else first


# Answers -------------------------------------------------------------------------------------------


def answers(tables: Tables) -> list[Answer]:
    """One sentence per question; for a study that decides nothing, what it made and what to do next."""
    transfer = at_transfer(tables)
    first = [Answer("Growth at transfer", transfer, "transfer")] if transfer else []
    if not decides(tables):
        return [*_made(tables), *first, *_next()]
    found = differences(tables)
    summary = in_short(found)
    shown = [*([Answer("In short", summary, "claims")] if summary else []), *first]
    for group, (about, what, control) in ASKED.items():
        sentence = against_control([one for one in found if one.group == group], what, control)
        if sentence:
            shown.append(Answer(about, sentence, SECTIONS.get(group, group)))
        elif group == "distillation" and _not_distilled(tables):
            text = "Independent ensembles, distillation and self-distillation were not run in this study."
            shown.append(Answer(about, text, "claims"))
    return shown or _made(tables)


def in_short(found: Sequence[Difference]) -> str:
    """The number of comparisons with each finding, and of findings that survive Holm's correction."""
    few, found = sum(not one.interval for one in found), [one for one in found if one.interval]
    if not found:
        return ""
    times = Counter[str](one.finding for one in found)
    losses = times["small"] + times["loss"] + times["large"]
    sizes = [f"{times[finding]} {size}" for finding, (_, size) in LOSSES.items() if times[finding]]
    parts = [
        f"{times['gain'] or 'none'} {'show' if times['gain'] > 1 else 'shows'} a gain",
        f"{losses} a loss ({listing([f'{one} than {MARGIN:g} points' for one in sizes[:1]] + sizes[1:])})",
        f"{times['equal']} exclude{'s' * (times['equal'] == 1)} a loss of more than {MARGIN:g} points",
        f"{times['open']} {'is' if times['open'] == 1 else 'are'} undecided",
    ]
    wanted = [True, losses, times["equal"], times["open"]]
    return (
        f"Of {count(len(found), 'comparison')} with a control{f' on {FEWEST} seeds or more' if few else ''}, "
        f"{listing(part for part, there in zip(parts, wanted, strict=True) if there)}. "
        + (f"{few} more {'rests' if few == 1 else 'rest'} on fewer seeds. " if few else "")
        + f"The intervals are uncorrected{_undecided(found)}. {_left(found)}"
    )


def _undecided(found: Sequence[Difference]) -> str:
    """The findings that a claim leaves undecided, because it has several parts and corrects for them."""
    names = [one.name for one in found if one.undecided]
    return f"; the ledger leaves {listing(names)} undecided" if names else ""


def _left(found: Sequence[Difference]) -> str:
    """The number of findings that survive Holm's correction, and their sign."""
    left = [one.finding for one in found if one.survives_holm]
    if not any(one.claims for one in found):
        return "No claim tests these findings, so none is corrected."
    if not left:
        return "None of the findings survives Holm’s correction."
    verbs = "survives Holm’s correction and is" if len(left) == 1 else "survive Holm’s correction and are"
    of_losses = " For a loss this confirms the direction, not the size." if {*left} & {*LOSSES} else ""
    return f"{len(left)} of the findings {verbs} marked {HOLM}.{of_losses}"


def at_transfer(tables: Tables) -> str:
    """Which ways to grow change no prediction, and how many the others change; counted, so without an interval."""
    rows = {row["name"]: row for row in tables.experiments}
    images = {row["experiment"]: row["images"] for row in records(tables.transfer_mean)}
    counts: dict[str, Decision] = {}
    for decision in (claim.main for claim in tables.claims):
        name = _grown(decision)
        if name in rows and name in images and decision.has_results and decision.estimate is not None:
            counts[name] = decision
    if not counts:
        return ""
    names = _methods([rows[name] for name in counts])
    kept = [names[name] for name, one in counts.items() if one.estimate == 0]
    changed = [
        f"{names[name]} changes {number(100 * (one.estimate or 0.0) / images[name], 1)} %"
        for name, one in counts.items()
        if one.estimate
    ]
    pairs = {(rows[rows[name]["parents"][0]]["branches"], rows[name]["branches"]) for name in counts}
    sizes = " and ".join(f"{before} branch{'es' * (before > 1)} into {after}" for before, after in sorted(pairs))
    first = next(iter(counts))
    words = f"Growing {sizes} by {listing(kept)} changes no prediction" if kept else ""
    if changed:
        words += f"; {listing(changed)} of them" if kept else f"Growing {sizes} by {listing(changed)} of predictions"
    return f"{words} (counted on {images[first]:,} test images, {spans((one.n for one in counts.values()), 'seed')})."


def _grown(decision: Decision) -> str:
    """The experiment whose predictions a claim counts right after growth; nothing for other claims."""
    part = decision.parts[0]
    found = re.match(r"(\w+)", part.text) if part.kind == "predictions_kept" else None
    return found[1] if found else ""


def method(row: Mapping[str, Any]) -> str:
    """The way a network was grown, in a few words: `masked`, `split with σ = 0.1`."""
    start = row["row"]["start"]
    noise = start.get("noise")
    return start["kind"] + ("" if noise is None else f" with σ = {noise:g}" if noise else " without noise")


def _methods(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Experiments by how they were grown; by their own name if two were grown alike."""
    words = [method(row) for row in rows]
    return {row["name"]: own if words.count(own) == 1 else row["name"] for row, own in zip(rows, words, strict=True)}


def against_control(found: Sequence[Difference], what: str, control: str) -> str:
    """One sentence about the differences of a group; it mentions undecided ones as well.

    Args:
        found: the differences.
        what: the kind of network, in the singular.
        control: the kind of control.
    """
    by_finding: dict[str, list[Difference]] = {}
    for one in found:
        by_finding.setdefault(one.finding, []).append(one)
    if not found:
        return ""
    few = by_finding.pop("few", [])

    def listed(finding: str, *, measured: bool = True) -> str:
        return listing(
            f"{one.name}{HOLM * one.survives_holm} ({number(one.estimate, sign=True)}\u00a0{interval(*one.interval)}"
            f"{'' if one.claims else ' over seeds alone'})"
            if measured and one.interval
            else one.name
            for one in by_finding[finding]
        )

    def are(finding: str) -> str:
        return "is" if len(by_finding[finding]) == 1 else "are"

    if not by_finding:
        return f"Undecided: each {what} that has a control was compared with {control} on fewer than {FEWEST} seeds."
    clauses = []
    if "gain" in by_finding:
        clauses.append(f"{listed('gain')} {are('gain')} more accurate than {control}")
    else:
        clauses.append(f"No {what} was shown to be more accurate than {control}")
    for finding, (size, _) in reversed(LOSSES.items()):
        if finding in by_finding:
            clauses.append(f"{listed(finding)} {are(finding)} less accurate, {size} than {MARGIN:g} points")
    if "equal" in by_finding:
        clauses.append(f"{listed('equal')} {are('equal')} not worse by more than {MARGIN:g} points")
    if "open" in by_finding:
        measured = len(by_finding["open"]) <= 2 or list(by_finding) == ["open"]
        clauses.append(f"undecided {are('open')} {listed('open', measured=measured)}")
    if few:
        which = listing(one.name for one in few) if len(few) <= FEW else count(len(few), "comparison")
        clauses.append(f"on fewer than {FEWEST} seeds, and so undecided: {which}")
    return "; ".join(clauses) + "."


def _not_distilled(tables: Tables) -> bool:
    own = [claim for claim in tables.claims if claim.main.section == "distillation"]
    return bool(own) and not any(claim.main.has_results for claim in own)


def _made(tables: Tables) -> list[Answer]:
    """The findings of a study that decides nothing: its runs and its networks."""
    rows = tables.experiments
    kinds = (
        ("trained from scratch", [row for row in rows if row["start"] == "random"]),
        ("trained further", [row for row in rows if row["start"] in ("continue", "imported")]),
        ("grown or expanded", [r for r in rows if len(r["parents"]) == 1 and r["start"] not in ("random", "continue")]),
        ("merged, combined or averaged", [r for r in rows if len(r["parents"]) > 1 and r["start"] != "random"]),
    )
    made = listing(f"{len(of)} {words}" for words, of in kinds if of)
    made = made.replace(" ", " networks ", 1) if made[:2] != "1 " else made.replace(" ", " network ", 1)
    runs = count(tables.study["runs"], "run")
    verb = "was" if tables.study["runs"] == 1 else "were"
    works = f"The pipeline works: {runs} of {count(len(rows), 'experiment')} {verb} trained, evaluated and compared."
    if tables.missing_runs:
        works = failed.summary(tables)
    return [
        Answer("What ran", works, "results"),
        Answer("What was made", f"The study has {made}. Their lineage, accuracies and costs are below.", "lineage"),
    ]


def _next() -> list[Answer]:
    return [
        Answer(
            "What it decides",
            f"Nothing: no claim rests on {FEWEST} seeds or more, so every question is undecided.",
            "claims",
        ),
        Answer(
            "What to do next",
            "Change a row of params.yaml or of this study's overlay and run it again: only what the change concerns is "
            f"trained. With {FEWEST} seeds or more (the key seeds) a study decides its claims. One that does is "
            "made with snakemake --cores 2 --config study=mini.",
            "provenance",
        ),
    ]


# How sure, and what is not shown -------------------------------------------------------------------


def sure(tables: Tables) -> list[str]:
    """How the answers were decided, and how many survive Holm’s correction."""
    decisions = [one for claim in tables.claims for one in claim.decisions]
    if not decides(tables):
        return []
    kinds = Counter[str](one.basis or one.verdict for one in decisions)
    decided = [one for one in decisions if one.survives_holm is not None]
    kept = sum(bool(one.survives_holm) for one in decided)
    shown = [one.survives_holm for one in differences(tables) if one.interval]
    left = listing(name for claim in tables.claims for name in _surviving(claim.decisions))
    figure = f" (claims {left}; {sum(shown) or 'none'} in the figure)" if shown and kept else ""
    few = sum(one.has_results and one.n < FEWEST for one in decisions)
    undecided = sum(one.has_results and not one.decided and one.n >= FEWEST for one in decisions)
    sentences = [
        "Numbers are differences of test top-1 in percentage points, mean over seeds, with 95 % intervals. Where a "
        "child and its control start from the same parent, differences are taken seed by seed."
    ]
    if any(one.group in ("growth", "merging", "expansion") for one in differences(tables)):
        sentences.append(
            "The continued-training control is the parent, trained for as long as its child and without the transfer. "
            "Its own gain is not a gain by growing or merging."
        )
    if decided:
        names = {"too few seeds": "on too few seeds"}
        order = ("tested", "counted", "too few seeds", "not decided", "not run")
        advice = f": rely on these{_shorter(tables)}, and take the others as indications"
        tally = listing(f"{kinds[kind]} {names.get(kind, kind)}" for kind in order if kinds[kind])
        sentences.append(
            f"The ledger has {count(len(decisions), 'verdict')}: {tally}. The tests decide {len(decided)}, and "
            f"{kept or 'none'} of these {'survives' if kept == 1 else 'survive'} Holm’s correction{figure}"
            f"{advice if 0 < kept < len(decided) else ''}."
        )
    rest = [f"{undecided} by intervals that are too wide" if undecided else ""]
    rest += [f"{few} for want of seeds (fewer than {FEWEST})" if few else ""]
    if any(rest):
        sentences.append(f"Undecided verdicts: {listing(part for part in rest if part)}.")
    return sentences


def _shorter(tables: Tables) -> str:
    """A remark on surviving claims that compare a network with its own parent alone, which had no such training."""
    rows = {row["name"]: row for row in tables.experiments}

    def over_parent(part: Part) -> bool:
        found = re.match(r"(\w+).* \u2212 (\w+)", part.text)
        child = rows.get(found[1]) if found else None
        return bool(found and child and child["epochs"] and child["start"] != "random" and found[2] in child["parents"])

    own = [
        claim.main.number
        for claim in tables.claims
        if any(one.survives_holm for one in claim.decisions) and all(over_parent(part) for part in claim.main.parts)
    ]
    return f" (in {listing(own)} against a parent that was trained less)" if own else ""


def _surviving(decisions: Sequence[Decision]) -> list[str]:
    """A claim's number if all of its decisions survive Holm’s correction, otherwise with the scores that do."""
    scores = {"top1": " for top-1", "top5": " for top-5", None: ""}
    left = [one for one in decisions if one.survives_holm]
    whole = len(left) == len(decisions)
    return list(dict.fromkeys(one.number if whole else f"{one.number}{scores[one.score]}" for one in left))


def limits(tables: Tables) -> list[str]:
    """The limits of a study of this scale, and the precision that its test images allow."""
    rows = tables.experiments
    sentences = [f"{failed.summary(tables)} Why, and what is missing, stands below."] if tables.missing_runs else []
    part3, others = list[int](), list[int]()
    for row in rows:
        if row["start"] == "random":  # Part 3's other networks are trained with ONE's protocol
            as_published = row["part"] == "distillation" and row["row"]["model"]["family"] == "resnet18"
            (part3 if as_published else others).append(row["epochs"])
    kinds = (
        (others, "networks were", PUBLISHED_EPOCHS, "the ONE paper"),
        (part3, "ResNet-18 was", PART_3_EPOCHS, "the published Part 3"),
    )
    shorter = [
        f"{who} trained for at most {count(max(epochs), 'epoch')}, against {published} in {where}"
        for epochs, who, published, where in kinds
        if epochs and max(epochs) < published
    ]
    if shorter:
        sentences.append(
            f"From scratch, {'; '.join(shorter)}. Nothing here says how accurate fully trained networks would be."
        )
    sentences += [*growth.behind(tables), _sampling_error(tables)]
    single = [row["name"] for row in rows if len(row["seeds"]) == 1]
    if len(single) == len(rows):
        sentences.append(
            "Every experiment has a single seed: a difference between two numbers may be chance, and no uncertainty "
            "can be given."
        )
    elif single:
        which = listing(single) if len(single) <= FEW else f"{len(single)} of {len(rows)} experiments"
        sentences.append(
            f"Single seed: {which}. No interval covers the choice of their seed; the ledger’s, where n = 1, covers the "
            "choice of test images alone and decides nothing."
        )
    if 1 < max(len(row["seeds"]) for row in rows) < FEWEST:
        sentences.append("Two seeds give a rough idea of the spread, but no reliable interval.")
    return sentences


def _sampling_error(tables: Tables) -> str:
    """The spread of an accuracy over other test images: the binomial standard error at the median accuracy."""
    share = statistics.median(tables.final("ensemble").values()) / 100
    images = min(row["images"]["test"] for row in tables.experiments)
    error = 100 * math.sqrt(share * (1 - share) / images)
    return (
        f"With {count(images, 'test image')}, an accuracy of {number(100 * share)} % (the median of all experiments) "
        f"has a standard error of {number(error)} points from the choice of images alone; a "
        "difference between two networks on the same images has a smaller one."
    )


# The figure ----------------------------------------------------------------------------------------

FINDINGS: Mapping[str, tuple[str, str, bool, str]] = {
    "gain": (GREEN, "^", True, "more accurate"),
    "equal": (BLUE, "o", True, f"not worse by more than {MARGIN:g}"),
    "small": (ORANGE, "v", False, f"less accurate, by less than {MARGIN:g}"),
    "loss": (ORANGE, "v", True, "less accurate, maybe by more"),
    "large": (ORANGE, "s", True, "less accurate, by more"),
    "open": (GREY, "o", False, "undecided"),
}
"""Colour, shape, fill and words of each finding."""
HOLM = "†"
"""The sign of a finding that a claim supports even after Holm's correction."""


def overview(tables: Tables) -> tuple[Picture, Callable[[], Figure]] | None:
    """The figure of all differences that have an interval; None if there are none."""
    found = [one for one in differences(tables) if one.interval]
    which = f"have a control and {FEWEST} seeds or more"
    if len(found) > ROWS:
        found = [one for one in found if one.claims]
        which += " and are named by a claim"
    if not found:
        return None
    by_finding = {finding: [one for one in found if one.finding == finding] for finding in FINDINGS}
    alt = "; ".join(
        f"{words}: {listing(f'{one.name} {number(one.estimate, sign=True)}' for one in by_finding[finding])}"
        for finding, (*_, words) in FINDINGS.items()
        if by_finding[finding]
    )
    shown = len({one.experiment for one in found})
    which += ", and branches of theirs" * any(one.label != one.experiment for one in found)
    scales = " Each group has a scale of its own." if len({one.group for one in found}) > 1 else ""
    caption = (
        f"Difference to its own control, 95 % interval. Test top-1 in percentage points.{scales} Shown are the "
        f"{shown} of {count(len(tables.experiments), 'experiment')} that {which}; shape and "
        f"colour follow from the interval alone. {_daggers(found)}{_unclaimed(found)}{_combined(tables, found)}"
        f"{names(tables, found)}"
    )
    picture = Picture("overview", caption, f"Difference to the control. {alt}.", "../claims.json")
    return picture, lambda: draw(found)


def _daggers(found: Sequence[Difference]) -> str:
    """The meaning of the sign of Holm's correction, and of its absence."""
    if not any(one.survives_holm for one in found):
        return ""
    return (
        f"{HOLM} marks a finding that survives Holm’s correction; of a loss it marks the direction and not the size. "
        f"A finding without {HOLM} does not survive it, or no claim tests its direction. "
    )


def _combined(tables: Tables, found: Sequence[Difference]) -> str:
    """A remark on the accuracy by which Part 3 compares plain ensembles."""
    rows = {row["name"]: row["row"] for row in tables.experiments}
    several = any(one.group == "distillation" and starts.is_plain_ensemble(rows[one.experiment]) for one in found)
    return "In Part 3 a plain ensemble counts by the mean of its networks’ probabilities. " if several else ""


def _unclaimed(found: Sequence[Difference]) -> str:
    """A remark on the intervals that are in no claim, so that they cover seeds only."""
    own = [one.name for one in found if not one.claims]
    if not own:
        return ""
    intervals = "its interval covers" if len(own) == 1 else "their intervals cover"
    return (
        f"No claim tests the difference of {listing(own)}: "
        f"{intervals} the spread over seeds, and not the choice of test images. "
    )


def names(tables: Tables, found: Sequence[Difference]) -> str:
    """The meaning of the names in the figure, one clause for each kind of network."""
    rows = {row["name"]: row for row in tables.experiments}
    kinds: dict[str, list[str]] = defaultdict(list)
    shown = dict.fromkeys(one.experiment for one in found)
    for name in dict.fromkeys([*shown, *(parent for child in shown for parent in rows[child]["parents"])]):
        kinds[kind(rows[name], rows)].append(name)
    everyone = [name for own in kinds.values() for name in own]
    clauses = [f"{_together(own, everyone)}: {words}" for words, own in kinds.items()]
    return f"Names: {'; '.join(clauses)}."


def kind(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A description of a network in a few words: `one3 grown into 5 branches`."""
    parents, start, branches = row["parents"], row["row"]["start"], row["branches"]
    if row["start"] == "imported":
        return "an imported checkpoint"
    if row["start"] == "random":
        if parents:
            return f"a student of {parents[0]}"
        if row["row"]["training"].get("distillation", {}).get("kind") == "mutual":
            return f"{branches} networks in mutual learning"
        if branches == 1:
            twice = row["row"]["model"]["gate"] != "none"  # of the branch, and of the ensemble, which is the branch
            return f"the plain network{', its cross-entropy counted twice' if twice else ''}"
        return f"ONE with {branches} branches"
    if starts.is_plain_ensemble(row["row"]):
        return "a plain ensemble"
    if row["start"] == "merge":
        return f"{len(parents)} networks merged on one trunk"
    if row["start"] == "combine":
        return f"{len(parents)} networks under one gate, each with its trunk"
    if len(parents) == 1 and start.get("opens") is False:
        return f"{parents[0]} among branches without weight"
    if len(parents) == 1 and branches > rows[parents[0]]["branches"]:
        verb = "grown" if rows[parents[0]]["branches"] > 1 else "expanded"
        return f"{parents[0]} {verb} into {branches} branches"
    return f"{listing(dict.fromkeys(parents))} trained further"


def _together(names: Sequence[str], everyone: Sequence[str]) -> str:
    """Several names by their common beginning: `one3_to_5…`; one by one if they have none, or share it with others."""
    first = itertools.takewhile(
        lambda words: len(set(words)) == 1, zip(*(name.split("_") for name in names), strict=False)
    )
    start = "_".join(words[0] for words in first)
    alone = {name for name in everyone if name.startswith(start)} == set(names)
    return f"{start}…" if len(names) > 1 and start and alone else listing(names)


def draw(found: Sequence[Difference]) -> Figure:
    """A row per difference to a control: the estimate, with the interval as a line, and its seeds at the right."""
    groups = {
        title: [one.name for one in found if one.group == group]
        for group, title in GROUPS.items()
        if any(one.group == group for one in found)
    }
    asides = {(GROUPS[one.group], one.name): f"{one.n}{f' {HOLM}' if one.survives_holm else ''}" for one in found}
    rows = drawing.Rows(groups, ["difference of test top-1 (points)"], asides, "seeds", own_scales=True)
    panels = dict(zip(groups, rows.panels, strict=True))
    for axes in panels.values():
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        axes.axvline(-MARGIN, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        axes.margins(x=0.04)
    for one in found:
        axes = panels[GROUPS[one.group]]
        colour, shape, filled, _ = FINDINGS[one.finding]
        y = rows.y[GROUPS[one.group], one.name]
        if one.interval:
            axes.plot(one.interval, [y, y], color=colour, linewidth=1.5, zorder=2)
        axes.plot(one.estimate, y, marker=shape, color=colour, mfc=colour if filled else PAPER, zorder=3)
    shown = {one.finding for one in found}
    marks = [
        drawing.mark(colour, shape, words, filled=filled, line=True)
        for finding, (colour, shape, filled, words) in FINDINGS.items()
        if finding in shown
    ]
    marks.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.9, label=f"margin: {MINUS}{MARGIN:g} points"))
    if any(one.survives_holm for one in found):
        marks.append(drawing.mark(INK, "", f"{HOLM} also after Holm’s correction"))
    drawing.legend(rows.figure, marks)
    return rows.figure
