"""All claims of a study, decided."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from coopnet.claims import bootstrap, costs
from coopnet.claims.bootstrap import RESAMPLES, Resampled
from coopnet.claims.costs import Compute
from coopnet.claims.decisions import FEW, FEWEST, Decision, Verdict, after_holm, conjunction, decide, holm
from coopnet.claims.entries import Comparison, Cost, Kept, Reference, Stated
from coopnet.claims.outcomes import Accuracies, Name, Outcomes
from coopnet.claims.pairing import Replicates, pair
from coopnet.evaluation.outcomes import SCORES
from coopnet.files.errors import CoopNetError
from coopnet.study import Run, Study

RISE = {"nll": 0.001, "ece": 0.05}
"""Nats, and percent, by which a start may raise them and still be said to keep them: an image on the edge of a bin of
the ECE moves by rounding."""


@dataclass(frozen=True)
class Evidence:
    """What claims are decided on.

    Attributes:
        plan: the study; it may lack experiments that a claim needs.
        outcomes: which images its runs got right.
        folder: where the files of a run lie.
        compute: counted FLOPs by experiment.
        resamples: of the bootstrap.
        lost: what became of runs without results, by experiment and seed.
    """

    plan: Study
    outcomes: Outcomes
    folder: Callable[[Run], Path]
    compute: Mapping[str, Compute]
    resamples: int = RESAMPLES
    lost: Mapping[tuple[str, int], str] = field(default_factory=dict)

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """The runs of each experiment, by seed."""
        runs: dict[str, list[Run]] = {}
        for run in sorted(self.plan.runs.values(), key=lambda run: run.seed):
            runs.setdefault(run.experiment, []).append(run)
        return runs

    def missing(self, part: Comparison | Kept | Cost) -> tuple[str, ...]:
        """Experiments of a part that the study does not have."""
        names = [reference.experiment for reference in (part.of, *part.than)]
        return tuple(dict.fromkeys(name for name in names if name not in self.runs))

    def without(self, part: Comparison | Kept | Cost) -> tuple[str, ...]:
        """What became of the runs that a part needs and that have no results; the study has its experiments."""
        if not self.lost:
            return ()
        needed = list(self.runs[part.of.experiment])
        for than in part.than:
            others = self.runs[than.experiment]
            if isinstance(part, Comparison):  # of a parent with more seeds than its children only some
                others = [run for group in pair(self.runs[part.of.experiment], others).than for run in group]
            needed += others
        places = {(run.experiment, run.seed) for run in needed}
        return tuple(words for place, words in self.lost.items() if place in places)


@dataclass(frozen=True)
class Pairing:
    """Two networks to compare: one part of a claim."""

    part: Comparison
    of: Reference
    than: Reference
    runs: Replicates
    place: str = ""

    @property
    def text(self) -> str:
        """`one3, branch 1 − baseline`."""
        return f"{self.of} \N{MINUS SIGN} {self.than}{self.place}"

    def averaged(self) -> "Pairing":
        """The same with the mean of the branches in place of branch 1."""

        def mean(reference: Reference) -> Reference:
            return reference._replace(model="branch_mean") if reference.model == "branch1" else reference

        return Pairing(self.part, mean(self.of), mean(self.than), self.runs, self.place)


def decide_all(stated: Sequence[Stated], evidence: Evidence) -> list[dict[str, Any]]:
    """The ledger, as `claims.json` holds it: one entry per claim and score, in the order of `claims.yaml`."""
    pairings = {(claim.id, place): list(_pairings(part, evidence)) for claim, place, part in _comparisons(stated)}
    wanted = [shown for found in pairings.values() for one in found for shown in (one, one.averaged())]
    accuracies = Accuracies(_networks(wanted, evidence.outcomes), evidence.outcomes, evidence.resamples)
    decided = []
    for claim in stated:
        for score in _scores(claim):
            parts = [
                decision
                for place, part in enumerate(claim.parts)
                for decision in _decisions(
                    claim, part, score, pairings.get((claim.id, place), []), accuracies, evidence
                )
            ]
            decided.append(_entry(claim, score, parts))
    for entry, p in zip(decided, holm([_tested(entry) for entry in decided]), strict=True):
        p = p if entry["p"] is not None else None
        entry |= {"p_holm": p, "holm": after_holm(entry["verdict"], p)}
    return decided


def _tested(entry: Mapping[str, Any]) -> float | None:
    """The p value that a claim has a share in the correction with.

    One that could not be decided was meant to be tested all the same: a failure must not make the others look surer.
    """
    return 1.0 if entry["verdict"] == "not decided" else entry["p"]


def _comparisons(stated: Sequence[Stated]) -> Iterator[tuple[Stated, int, Comparison]]:
    for claim in stated:
        for place, part in enumerate(claim.parts):
            if isinstance(part, Comparison):
                yield claim, place, part


def _pairings(part: Comparison, evidence: Evidence) -> Iterator[Pairing]:
    """Every pair of networks that a part compares; none where the study lacks one of them, or lost a run of it."""
    if evidence.missing(part) or evidence.without(part):
        return
    for than in part.than:
        runs = pair(evidence.runs[part.of.experiment], evidence.runs[than.experiment])
        if part.each and not runs.paired:
            names = f"{part.of.experiment} and {than.experiment}"
            raise CoopNetError(f"claims.yaml: `each` is for networks of one lineage, and {names} share no ancestor")
        several = len(runs.than[0]) if part.each else 1
        for place in range(several if several > 1 else 0):
            alone = runs._replace(than=[[others[place]] for others in runs.than])
            yield Pairing(part, part.of, than, alone, f" ({place + 1} of {several})")
        if several == 1:
            yield Pairing(part, part.of, than, runs)


def _networks(pairings: Sequence[Pairing], outcomes: Outcomes) -> dict[Name, Run]:
    """The networks whose accuracies are compared, each once."""
    networks: dict[Name, Run] = {}
    for one in pairings:
        for run in one.runs.of:
            networks |= dict.fromkeys(outcomes.names(run, one.of), run)
        for run in (run for others in one.runs.than for run in others):
            networks |= dict.fromkeys(outcomes.names(run, one.than), run)
    return networks


def _scores(claim: Stated) -> Sequence[str | None]:
    """Top-1 and top-5, each decided; once where no part is about accuracy."""
    once = all(part.kind in ("calibration_kept", "less_compute") for part in claim.parts)
    return (None,) if once else SCORES


def _decisions(
    claim: Stated,
    part: Comparison | Kept | Cost,
    score: str | None,
    pairings: Sequence[Pairing],
    accuracies: Accuracies,
    evidence: Evidence,
) -> Iterator[Decision]:
    missing = evidence.missing(part)
    lost = () if missing else evidence.without(part)
    if missing or lost:
        verdict: Verdict = "not run" if missing else "not decided"
        text = f"{part.of} \N{MINUS SIGN} {', '.join(map(str, part.than))}" if part.than else str(part.of)
        yield Decision(text, part.kind, verdict, note=", ".join(lost), missing=missing, lost=lost)
    elif isinstance(part, Kept):
        yield _kept(part, score, evidence)
    elif isinstance(part, Cost):
        yield _cost(part, score, evidence, (zlib.crc32(claim.id.encode()),))
    else:
        for place, one in enumerate(pairings):
            yield _compared(one, SCORES.index(score or "top1"), claim.claim.margin, accuracies, evidence, place)


def _compared(
    one: Pairing, score: int, margin: float, accuracies: Accuracies, evidence: Evidence, place: int
) -> Decision:
    seed = (zlib.crc32(one.text.encode()), place)
    found = _difference(one, score, accuracies, evidence.outcomes, seed)
    verdict, p, slack, note = decide(found, one.part.kind, margin, one.part.target)
    beside = {}
    if one.averaged() != one:
        other = _difference(one.averaged(), score, accuracies, evidence.outcomes, seed)
        beside["mean of branches"] = {"estimate": _finite(other.estimate), "interval": _ends(other)}
    return Decision(
        one.text,
        one.part.kind,
        verdict,
        _finite(found.estimate),
        _ends(found),
        n=found.n,
        p=p,
        slack=slack,
        paired=one.runs.paired,
        beside=beside,
        target=one.part.target,
        note=note,
    )


def _difference(one: Pairing, score: int, accuracies: Accuracies, outcomes: Outcomes, seed: Sequence[int]) -> Resampled:
    """Accuracy of the first network minus that of the second, over replicates and images."""
    of = [outcomes.names(run, one.of) for run in one.runs.of]
    than = [[name for run in others for name in outcomes.names(run, one.than)] for others in one.runs.than]

    def both(names: Sequence[Sequence[Name]]) -> tuple[np.ndarray, np.ndarray]:
        values = np.array([accuracies.value(group, score) for group in names])
        return values, np.stack([accuracies.draws(group, score) for group in names], axis=1)

    (own, own_draws), (other, other_draws) = both(of), both(than)
    if one.runs.paired:
        return bootstrap.paired(own - other, own_draws - other_draws, seed)
    return bootstrap.unpaired(own, other, (own_draws, other_draws), seed)


def _kept(part: Kept, score: str | None, evidence: Evidence) -> Decision:
    """What a start keeps, counted in every replicate; what is lost in one of them is not kept."""
    runs = evidence.runs[part.of.experiment]
    blocks = [evidence.outcomes.metrics(run)["step0"]["test"] for run in runs]
    changes = {
        name: [block["ensemble"][name] - block["versus_parent"]["parent"][name] for block in blocks]
        for name in ("top1", "top5", "nll", "ece")
    }
    beside = {
        f"change of {name}": {"estimate": _finite(float(np.mean(of))), "interval": None} for name, of in changes.items()
    }
    if part.kind == "calibration_kept":
        excess = max(max(changes[name]) - RISE[name] for name in RISE)
        verdict: Verdict = "supported" if excess <= 0 else "contradicted"
        estimate, unit, text = float(np.mean(changes["nll"])), "nats", f"{part.of.experiment} at step 0, NLL and ECE"
    else:
        counts = _changed(runs, blocks, score or "top1", evidence.outcomes)
        excess = float(max(counts))
        verdict = "contradicted" if excess else "supported"
        estimate, unit = float(np.mean(counts)), "images"
        what = "predictions" if score == "top1" else "images right or wrong in top-5"
        text = f"{part.of.experiment} at step 0, changed {what}"
    few = len(runs) < FEWEST
    return Decision(
        text,
        part.kind,
        "inconclusive" if few else verdict,
        _finite(estimate),
        unit=unit,
        n=len(runs),
        slack=-excess,
        beside=beside,
        note=FEW if few else "",
    )


def _changed(runs: Sequence[Run], blocks: Sequence[Any], score: str, outcomes: Outcomes) -> list[int]:
    """Images whose predicted class is another than the parent's; of top-5, whose outcome is another."""
    if score == "top1":
        return [int(block["versus_parent"]["changed_predictions"]) for block in blocks]
    k = SCORES.index(score)
    pairs = [(outcomes.right(run, "step0/ensemble"), outcomes.right(run.parents[0], "final/ensemble")) for run in runs]
    return [int((own[k] != parent[k]).sum()) for own, parent in pairs]


def _cost(part: Cost, score: str | None, evidence: Evidence, seed: Sequence[int]) -> Decision:
    """What training costs: in all, which is counted, or until a target, which is resampled over seeds."""
    of, than = part.of.experiment, part.than[0].experiment
    if part.kind == "less_compute":
        return _counted(part, of, than, evidence)
    per_flop = part.kind == "less_compute_to_target"
    curves = [_curves(name, score or "top1", evidence, epochs=not per_flop) for name in (of, than)]
    found = costs.to_target(curves[0], curves[1], evidence.resamples, seed, ratio=per_flop)
    verdict, p, slack, note = decide(found, "less")
    if math.isinf(found.estimate):
        note = "; ".join(filter(None, [note, f"{of} never reaches where {than} ends"]))
    text = f"epochs until the target, {of} \N{MINUS SIGN} {than}"
    if per_flop:
        text = f"training FLOPs until the target, {of} / {than} \N{MINUS SIGN} 1"
    unit = "change" if per_flop else "epochs"
    estimate = _finite(found.estimate)
    ends = _ends(found) if found.n > 1 else None  # nothing but seeds was resampled
    return Decision(text, part.kind, verdict, estimate, ends, unit, found.n, p, slack, paired=False, note=note)


def _counted(part: Cost, of: str, than: str, evidence: Evidence) -> Decision:
    own, other = (evidence.compute[name].lineage for name in (of, than))
    text = f"training FLOPs of {of} / {than} \N{MINUS SIGN} 1"
    n = min(len(evidence.runs[name]) for name in (of, than))
    if own is None or other is None:
        note = "what the training of an imported checkpoint cost is not known"
        return Decision(text, part.kind, "inconclusive", unit="change", n=n, note=note)
    excess = own / other - 1
    verdict: Verdict = "supported" if excess < 0 else "contradicted"
    return Decision(text, part.kind, verdict, _finite(excess), unit="change", n=n, slack=-excess)


def _curves(experiment: str, score: str, evidence: Evidence, *, epochs: bool) -> costs.Curves:
    """Validation curves of an experiment with all stages before it, each epoch at the price of 1 or of its FLOPs."""
    lines = [costs.stages(run) for run in evidence.runs[experiment]]
    # A first stage may be an imported checkpoint, which has no epochs here to put a price on.
    own = [evidence.compute[run.experiment].own / max(1, run.row.training.epochs) for run in lines[0]]
    prices = [1.0] * len(own) if epochs else own
    return costs.curves([[evidence.folder(run) / "history.csv" for run in line] for line in lines], prices, score)


def _entry(claim: Stated, score: str | None, parts: Sequence[Decision]) -> dict[str, Any]:
    verdict, p, deciding = conjunction(parts)
    missing = list(dict.fromkeys(name for part in parts for name in part.missing))
    lost = ", ".join(dict.fromkeys(words for part in parts for words in part.lost))
    return {
        "id": claim.id if score is None else f"{claim.id}/{score}",
        "claim": claim.id,
        "number": claim.claim.number,
        "text": claim.claim.text,
        "source": claim.claim.source,
        "score": score,
        "verdict": verdict,
        "estimate": deciding.estimate,
        "interval": deciding.interval,
        "unit": deciding.unit,
        "n": deciding.n,
        "p": p,
        "margin": claim.claim.margin if any(part.kind in ("not_worse", "nothing") for part in parts) else None,
        "note": lost if verdict == "not decided" else deciding.note,
        "missing": missing,
        "section": claim.claim.section,
        "parts": [_shown(part) for part in parts],
    }


def _shown(part: Decision) -> dict[str, Any]:
    hidden = ("slack", "missing", "lost", *(() if part.target else ("target",)))
    return {key: value for key, value in vars(part).items() if key not in hidden}


def _ends(found: Resampled) -> tuple[float | None, float | None]:
    low, high = found.interval
    return _finite(low), _finite(high)


def _finite(value: float) -> float | None:
    """Ten significant digits, or None for what is infinite and so no JSON."""
    return float(f"{value:.10g}") if math.isfinite(value) else None
