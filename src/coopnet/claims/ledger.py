"""Decides all claims of a study."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from coopnet.claims import costs, inference
from coopnet.claims.costs import Compute
from coopnet.claims.decisions import (
    ALPHA,
    FEWEST,
    Decision,
    Judged,
    Judgement,
    Measured,
    Part,
    Verdict,
    conjunction,
    ends,
    finite,
    holm,
)
from coopnet.claims.entries import Comparison, Cost, Kept, Reference, Stated
from coopnet.claims.inference import Estimate
from coopnet.claims.outcomes import Outcomes
from coopnet.claims.pairing import Replicates, pair
from coopnet.evaluation.outcomes import SCORES
from coopnet.files.errors import CoopNetError
from coopnet.study import Run, Study

THESE_NETWORKS = "these networks"
"""Note of a claim with one replicate. Its interval, if there is one, covers the choice of images only."""

THESE_IMAGES = "these test images"
"""Note of a claim whose interval covers the choice of seeds only."""


@dataclass(frozen=True)
class Evidence:
    """The data that claims are decided on.

    Attributes:
        plan: the study; it may lack experiments that a claim needs.
        outcomes: which test images its runs classify correctly.
        compute: counted FLOPs by experiment.
        unavailable: a message for every run without results, by experiment and seed.
    """

    plan: Study
    outcomes: Outcomes
    compute: Mapping[str, Compute]
    unavailable: Mapping[tuple[str, int], str] = field(default_factory=dict)

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
        """A message for every run without results that a part needs; the study has the part's experiments."""
        if not self.unavailable:
            return ()
        needed = list(self.runs[part.of.experiment])
        for than in part.than:
            others = self.runs[than.experiment]
            if isinstance(part, Comparison):  # a parent may have more seeds than its children
                others = [run for group in pair(self.runs[part.of.experiment], others).than for run in group]
            needed += others
        places = {(run.experiment, run.seed) for run in needed}
        return tuple(words for place, words in self.unavailable.items() if place in places)


@dataclass(frozen=True)
class Pairing:
    """Two networks to compare: one part of a claim."""

    part: Comparison
    of: Reference
    than: Reference
    runs: Replicates

    @property
    def text(self) -> str:
        """`one3, branch 1 − baseline`."""
        several = max(map(len, self.runs.than))
        best = f" (the best of {several} on the test images)" if self.part.each and several > 1 else ""
        return f"{self.of} \N{MINUS SIGN} {self.than}{best}"

    def averaged(self) -> "Pairing":
        """The same comparison with the mean of the branches instead of branch 1."""

        def mean(reference: Reference) -> Reference:
            return reference._replace(model="branch_mean") if reference.model == "branch1" else reference

        return Pairing(self.part, mean(self.of), mean(self.than), self.runs)


def decide_all(stated: Sequence[Stated], evidence: Evidence) -> list[Decision]:
    """The ledger: one entry per claim and score, in the order of `claims.yaml`."""
    entries = [_entry(claim, score, evidence) for claim in stated for score in _scores(claim, evidence)]
    corrected = holm([1.0 if _untested(entry) else entry["p"] for entry in entries])
    return [_corrected(entry, p) for entry, p in zip(entries, corrected, strict=True)]


def _untested(entry: Mapping[str, Any]) -> bool:
    """Whether a verdict is still to be tested in this study, for want of seeds or because a run failed.

    It counts in the correction with p = 1. So its further seeds or repeated runs never take the correction away from
    other verdicts, and a failed run never makes them look more certain.
    """
    few = entry.get("basis") == "too few seeds" and entry["region"] is not None  # a count has no region, and is no test
    return few or entry["verdict"] == "not decided"


def _corrected(entry: dict[str, Any], p: float | None) -> Decision:
    """An entry with Holm's correction over all verdicts that this study tests or is still to test."""
    if entry["p"] is None:
        return Decision.model_validate(entry)
    p = finite(p) or 0.0
    decided = entry["verdict"] in ("supported", "contradicted")
    return Decision.model_validate(entry | {"p_holm": p, "survives_holm": p <= ALPHA if decided else None})


def _pairings(part: Comparison, evidence: Evidence) -> Iterator[Pairing]:
    """Every pair of networks that a part compares, if all their runs are there."""
    for than in part.than:
        runs = pair(evidence.runs[part.of.experiment], evidence.runs[than.experiment])
        if part.each and not runs.paired:
            names = f"{part.of.experiment} and {than.experiment}"
            raise CoopNetError(f"claims.yaml: `each` is for networks of one lineage, but {names} share no ancestor")
        yield Pairing(part, part.of, than, runs)


def _scores(claim: Stated, evidence: Evidence) -> Sequence[str | None]:
    """Top-1, and top-5 where there are more than five classes; a single None if no part is about accuracy."""
    if all(part.kind in ("calibration_kept", "less_compute") for part in claim.parts):
        return (None,)
    row = evidence.plan.experiments.get(claim.parts[0].of.experiment)
    few = row is not None and evidence.plan.data[row.data.dataset].classes <= 5
    return SCORES[:1] if few else SCORES


def _entry(claim: Stated, score: str | None, evidence: Evidence) -> dict[str, Any]:
    judged = [one for part in claim.parts for one in _judged(claim, part, score, evidence)]
    parts = [part for part, _ in judged]
    return {
        "id": claim.id if score is None else f"{claim.id}/{score}",
        "claim": claim.id,
        "number": claim.claim.number,
        "text": claim.claim.text,
        "source": claim.claim.source,
        "section": claim.claim.section,
        "score": score,
        "p": None,
        "caution": _lengths(claim.claim.lengths, evidence.plan),
        "missing": list(dict.fromkeys(name for part in parts for name in part.missing)),
        "parts": parts,
        **conjunction(judged),
    }


def _lengths(names: Sequence[str], plan: Study) -> str:
    """Epochs of each experiment as text; empty if they are equal or the study lacks one."""
    epochs = {name: plan.experiments[name].training.epochs for name in names if name in plan.experiments}
    if len(epochs) < len(names) or len(set(epochs.values())) < 2:
        return ""
    return ", ".join(f"{name} has {count:,} epochs" for name, count in epochs.items())


def _judged(claim: Stated, part: Comparison | Kept | Cost, score: str | None, evidence: Evidence) -> Iterator[Judged]:
    missing = evidence.missing(part)
    unavailable = () if missing else evidence.without(part)
    if missing or unavailable:
        verdict: Verdict = "not run" if missing else "not decided"
        text = f"{part.of} \N{MINUS SIGN} {', '.join(map(str, part.than))}" if part.than else str(part.of)
        yield Part(text=text, kind=part.kind, verdict=verdict, missing=list(missing), lost=list(unavailable)), None
    elif isinstance(part, Kept):
        yield from _kept(part, score or "top1", evidence)
    elif isinstance(part, Cost):
        yield _cost(part, score or "top1", evidence)
    else:
        for one in _pairings(part, evidence):
            yield _compared(one, SCORES.index(score or "top1"), claim.claim.margin, evidence)


def _compared(one: Pairing, score: int, margin: float, evidence: Evidence) -> Judged:
    tested = Judgement(_difference(one, score, evidence.outcomes), one.part.kind, margin, one.part.target)
    beside = {}
    if one.averaged() != one:
        other = _difference(one.averaged(), score, evidence.outcomes)
        beside["mean of branches"] = Measured(estimate=finite(other.value), interval=ends(other))
    runs = [*one.runs.of, *(run for group in one.runs.than for run in group)]
    given = _given(runs) if tested.found.n > 1 else [f"{THESE_NETWORKS} (the interval is over test images alone)"]
    return tested.part(one.text, one.part.target, paired=one.runs.paired, beside=beside, given=given), tested


def _given(runs: Sequence[Run]) -> list[str]:
    """Choices of training images that all seeds share. Intervals over seeds do not cover them.

    The seed of the split is a parameter of the data (`data.split_seed`), not of the run.
    """
    subsets = sorted({run.row.data.training_subset for run in runs if run.row.data.training_subset})
    given = [f"one choice of {size:,} training images for all seeds" for size in subsets]
    if any(run.row.data.validation for run in runs):
        given.append("one division into training and validation images for all seeds")
    return given


def _difference(one: Pairing, score: int, outcomes: Outcomes) -> Estimate:
    """Accuracy of the first network minus that of the second, over replicates and images.

    If a replicate has several second networks, it is compared with their mean, or with the best of them for `each`: a
    network that beats the best one beats each. The best is chosen on the test images, which favours it over the first
    network, so the choice never helps a claim of kind `better` or `not_worse`.
    """
    of = np.stack([outcomes.accuracy(run, one.of)[score] for run in one.runs.of])
    groups = [[outcomes.accuracy(run, one.than)[score] for run in group] for group in one.runs.than]
    than = np.stack([max(group, key=np.mean) if one.part.each else np.mean(group, axis=0) for group in groups])
    return inference.difference(of - than) if one.runs.paired else inference.difference(of, than)


def _kept(part: Kept, score: str, evidence: Evidence) -> Iterator[Judged]:
    """Kept predictions, counted in every replicate, or kept NLL and ECE, tested over replicates."""
    runs = evidence.runs[part.of.experiment]
    blocks = [evidence.outcomes.metrics(run)["at_transfer"]["test"] for run in runs]
    changes = {
        name: [block["ensemble"][name] - block["versus_parent"]["parent"][name] for block in blocks]
        for name in ("top1", "top5", "nll", "ece")
    }
    given = _given(runs) if len(runs) > 1 else [THESE_NETWORKS]
    if part.tolerance is not None:
        for name, unit, most in (("nll", "nats", part.tolerance.nll), ("ece", "ECE points", part.tolerance.ece)):
            tested = Judgement(inference.over_seeds(changes[name]), part.kind, most)
            text = f"{name.upper()} of {part.of.experiment} at transfer \N{MINUS SIGN} its parent's"
            yield tested.part(text, unit=unit, paired=True, given=[THESE_IMAGES, *given]), tested
        return
    counts = _changed(runs, blocks, score, evidence.outcomes)
    verdict: Verdict = "contradicted" if any(counts) else "supported"
    few = len(runs) < FEWEST
    what = "predictions" if score == "top1" else "images right or wrong in top-5"
    yield (
        Part(
            text=f"{part.of.experiment} at transfer, changed {what}",
            kind=part.kind,
            verdict="inconclusive" if few else verdict,
            basis="too few seeds" if few else "counted",
            estimate=finite(float(np.mean(counts))),
            unit="images",
            n=len(runs),
            beside={f"change of {name}": Measured(estimate=finite(float(np.mean(of)))) for name, of in changes.items()},
            given=[THESE_IMAGES],
        ),
        None,
    )


def _changed(runs: Sequence[Run], blocks: Sequence[Any], score: str, outcomes: Outcomes) -> list[int]:
    """Number of images per run whose predicted class differs from the parent's; for top-5, whose outcome differs."""
    if score == "top1":
        return [int(block["versus_parent"]["changed_predictions"]) for block in blocks]
    k = SCORES.index(score)
    pairs = [
        (outcomes.right(run, "at_transfer/ensemble"), outcomes.right(run.parents[0], "final/ensemble")) for run in runs
    ]
    return [int((own[k] != parent[k]).sum()) for own, parent in pairs]


def _cost(part: Cost, score: str, evidence: Evidence) -> Judged:
    """Cost of training: all of it, which is counted, or until a target, which is sampled over seeds."""
    of, than = part.of.experiment, part.than[0].experiment
    if part.kind == "less_compute":
        return _counted(part, of, than, evidence), None
    per_flop = part.kind == "less_compute_to_target"
    if any(run.row.start.kind == "imported" for name in (of, than) for run in costs.stages(evidence.runs[name][0])):
        return _unknown(part, of, than, evidence, per_flop), None
    curves = [_curves(name, score, evidence, epochs=not per_flop) for name in (of, than)]
    reached = costs.compare(curves[0], curves[1], ratio=per_flop).reached
    tested = Judgement(costs.to_target(curves[0], curves[1], ratio=per_flop), part.kind)
    text = f"epochs until the target, {of} \N{MINUS SIGN} {than}"
    if per_flop:
        text = f"training FLOPs until the target, {of} / {than} \N{MINUS SIGN} 1"
    note = "" if reached else f"{of} never reaches the final accuracy of {than}, so it costs at least this"
    shared = _given([*evidence.runs[of], *evidence.runs[than]]) if tested.found.n > 1 else [THESE_NETWORKS]
    unit = "change" if per_flop else "epochs"
    return tested.part(text, unit=unit, paired=False, given=["these validation images", *shared], note=note), tested


def _unknown(part: Cost, of: str, than: str, evidence: Evidence, per_flop: bool) -> Part:
    """Costs that began before the study, with an imported checkpoint."""
    return Part(
        text=f"{'training FLOPs' if per_flop else 'epochs'} until the target, {of} and {than}",
        kind=part.kind,
        verdict="inconclusive",
        basis="counted",
        unit="change" if per_flop else "epochs",
        n=min(len(evidence.runs[name]) for name in (of, than)),
        note="the training of an imported checkpoint is unknown",
    )


def _counted(part: Cost, of: str, than: str, evidence: Evidence) -> Part:
    own, other = (evidence.compute[name].lineage for name in (of, than))
    excess = None if own is None or other is None else own / other - 1
    verdict: Verdict = "inconclusive" if excess is None else "supported" if excess < 0 else "contradicted"
    return Part(
        text=f"training FLOPs of {of} / {than} \N{MINUS SIGN} 1",
        kind=part.kind,
        verdict=verdict,
        basis="counted",
        estimate=finite(excess),
        unit="change",
        n=min(len(evidence.runs[name]) for name in (of, than)),
        note="" if excess is not None else "the training cost of an imported checkpoint is unknown",
    )


def _curves(experiment: str, score: str, evidence: Evidence, *, epochs: bool) -> costs.Curves:
    """Validation curves of an experiment after those of its ancestors; an epoch costs 1 or its FLOPs."""
    lines = [costs.stages(run) for run in evidence.runs[experiment]]
    # The first stage may be an imported checkpoint, which has no epochs here.
    own = [evidence.compute[run.experiment].own / (run.row.training.epochs or 1) for run in lines[0]]
    prices = [1.0] * len(own) if epochs else own
    return costs.curves([[evidence.outcomes.validation_curve(run, score) for run in line] for line in lines], prices)
