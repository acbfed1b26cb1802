"""Difference of each experiment to its own control, for the first screen, its figure and the tables.

If the ledger compares the same two networks, estimate and interval are the ledger's. If not, the interval is Student's
t over the seeds' paired differences, or Welch's over two groups of seeds if the control is no ancestor of the network.
It is about these test images alone. Fewer than three seeds have no interval.
One rule derives the finding of a difference from its interval: the ledger's rule (`claims.decisions`) with the default
margin of claims. So a finding never contradicts the verdict of a claim; it can be decided where a claim of several
parts, whose interval is corrected for their number, is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from coopnet.claims.decisions import FEWEST, Decision, Part
from coopnet.claims.entries import MARGIN, PROBABILITIES
from coopnet.claims.inference import over_seeds
from coopnet.report import ledger, starts
from coopnet.report.frames import Tables
from coopnet.report.runs import mean

GROUPS = {
    "one": "ONE: against the plain network",
    "ablation": "ONE: against the same network without one part",
    "growth": "Growth: against the continued-training control",
    "merging": "Merging: against the plain ensemble of the controls",
    "expansion": "Expansion: against the continued-training control",
    "distillation": "Part 3: against a single network",
}
"""Groups of experiments by the kind of their control, in the order in which a report shows them."""

WITHOUT = "_no_"
"""What stands between the name of a network and that of the part which its ablation lacks: `one3_no_gate`."""

Finding = Literal["gain", "equal", "small", "loss", "large", "open", "few"]
"""Where the interval lies: `gain`, above 0; `equal`, around 0 and above −margin; `small`, between −margin and 0;
`loss`, below 0 and around −margin; `large`, below −margin; `open`, around 0 and −margin. `few`: too few seeds for an
interval."""


@dataclass(frozen=True)
class Difference:
    """A network minus its control, in percentage points of top-1 on the test images.

    Attributes:
        group: one of `GROUPS`.
        experiment: the network's row.
        label: the shown name; it includes the part of the network unless that is the ensemble.
        control: the row of the control.
        estimate: the difference of means.
        interval: its 95 % interval; None for fewer than three seeds.
        n: number of seeds, of the smaller group if there are two.
        claims: numbers of the claims that compare the two.
        after_holm: findings whose direction a claim supports even after Holm's correction. For a loss that is the
            loss, and not its size.
        undecided: whether this difference would refute a claim of several parts, but does not with the interval that
            is corrected for their number.
    """

    group: str
    experiment: str
    label: str
    control: str
    estimate: float
    interval: tuple[float, float] | None
    n: int
    claims: Sequence[str] = ()
    after_holm: frozenset[Finding] = frozenset()
    undecided: bool = False

    @property
    def name(self) -> str:
        """The label; in an ablation with the part that the control lacks, as one network has several such controls."""
        if self.group != "ablation":
            return self.label
        return f"{self.label} with {self.control.removeprefix(f'{self.experiment}{WITHOUT}')}"

    @property
    def finding(self) -> Finding:
        """The finding that follows from the interval."""
        if self.interval is None:
            return "few"
        low, high = self.interval
        if low > 0:
            return "gain"
        if high < -MARGIN:
            return "large"
        if high < 0:
            return "small" if low > -MARGIN else "loss"
        return "equal" if low > -MARGIN else "open"

    @property
    def survives_holm(self) -> bool:
        """Whether a claim supports the finding even after Holm's correction."""
        return self.finding in self.after_holm


def differences(tables: Tables) -> list[Difference]:
    """Every difference to a control in the tables or the ledger, by group and in the study's order."""
    known: dict[tuple[str, str, str], Difference] = {}
    own = _from_tables(tables)
    for found in [*own, *_from_ledger(tables, own)]:
        place = (found.experiment, found.label, found.control)
        known[place] = _joined(known[place], found) if place in known else found
    order = {row["name"]: place for place, row in enumerate(tables.ordered)}

    def place_of(one: Difference) -> tuple[int, int, str, int]:
        return list(GROUPS).index(one.group), order[one.experiment], one.label, order[one.control]

    return sorted(known.values(), key=place_of)


def of_ensembles(tables: Tables) -> dict[str, Difference]:
    """The ensemble's difference to its control, by experiment. The other network of an ablation is not a control."""
    found: dict[str, Difference] = {}
    for one in differences(tables):
        if one.label == one.experiment and one.group != "ablation":
            found.setdefault(one.experiment, one)
    return found


def _joined(first: Difference, second: Difference) -> Difference:
    """Two entries of one comparison as one: the numbers of the ledger, and the claims of both."""
    own = second if second.interval or not first.interval else first
    return replace(
        own,
        claims=[*first.claims, *second.claims],
        after_holm=first.after_holm | second.after_holm,
        undecided=first.undecided or second.undecided,
    )


def _from_tables(tables: Tables) -> list[Difference]:
    """Differences of grown, expanded and merged networks, and of Part 3."""
    rows = {row["name"]: row for row in tables.experiments}
    found = []
    growth = tables.growth[(tables.growth["model"] == "ensemble") & (tables.growth["metric"] == "top1")]
    for name, frame in growth.groupby("experiment", sort=False):
        several = rows[str(frame["parent"].iloc[0])]["branches"] > 1
        group = "growth" if several else "expansion"
        found += _paired(group, str(name), frame, "over_control")
    for name, frame in tables.merges.groupby("experiment", sort=False):
        found += _paired("merging", str(name), frame, "ensemble_over_control_ensemble_top1")
    for name in dict.fromkeys(tables.distillation["experiment"]):
        if name in rows and rows[name]["part"] == "distillation" and (one := to_single(tables, name)):
            found += [one] if one.control in rows else []
    return found


def to_single(tables: Tables, name: str) -> Difference | None:
    """A network of Part 3 minus the same network trained alone; None if there is none, as for that network itself."""
    rows = {row["name"]: row for row in tables.experiments}
    part = tables.distillation
    part = part[(part["experiment"] == name) & (part["split"] == "test") & (part["score"] == "top1")]
    gains = [float(value) for value in part["over_single"].dropna()]
    if not gains:
        return None
    single = str(part["single"].iloc[0])
    if starts.is_plain_ensemble(rows[name]["row"]) or single in _ancestors(rows, name):
        interval, n = seed_interval(gains), len(gains)
    else:
        alone = tables.seeds(single, "ensemble", "top1")
        interval, n = seed_interval(list(part["value"]), alone), min(len(gains), len(alone))
    return Difference("distillation", name, name, _member(rows[name]) or single, mean(gains), interval, n)


def _ancestors(rows: Mapping[str, Mapping[str, Any]], name: str) -> set[str]:
    parents = {parent for parent in rows[name]["parents"] if parent in rows}
    return parents.union(*(_ancestors(rows, parent) for parent in parents))


def _member(row: Mapping[str, Any]) -> str | None:
    """The experiment of all networks of a plain ensemble; None for other rows, and for several experiments."""
    parents = set(row["parents"])
    return parents.pop() if starts.is_plain_ensemble(row["row"]) and len(parents) == 1 else None


def _paired(group: str, name: str, frame: pd.DataFrame, gain: str) -> list[Difference]:
    own = frame[frame[gain].notna()]
    control = control_of(own)
    if control is None:
        return []
    values = [float(value) for value in own[gain]]
    return [Difference(group, name, name, control, mean(values), seed_interval(values), len(values))]


def control_of(frame: pd.DataFrame) -> str | None:
    """The control in the rows of an experiment, of which some may lack it."""
    known = frame["control"].dropna()
    return None if known.empty else str(known.iloc[0])


def seed_interval(of: Sequence[float], than: Sequence[float] | None = None) -> tuple[float, float] | None:
    """The 95 % interval of a mean, or of the difference of two, over seeds alone; None for fewer than three seeds."""
    enough = len(of) >= FEWEST and (than is None or len(than) >= FEWEST)
    return over_seeds(of, than).interval() if enough else None


def _from_ledger(tables: Tables, own: Sequence[Difference]) -> list[Difference]:
    """Differences that a claim tests, if the second network is a control of the first.

    `own` are those of the tables.
    """
    rows = {row["name"]: row for row in tables.experiments}
    controls = {(one.experiment, one.control): one.group for one in own}
    found = []
    for claim in tables.claims:
        for decision in claim.decisions:
            for part in decision.parts if decision.score == "top1" else ():
                pair = ledger.pair(part)
                if pair is None or part.estimate is None or part.unit != "points":
                    continue
                if pair.of not in rows or pair.than not in rows:
                    continue
                group = _group(rows, controls, pair)
                if group:
                    whole = not pair.model or starts.is_plain_ensemble(rows[pair.of]["row"])
                    label = pair.of if whole else f"{pair.of}, {pair.model}"
                    low, high = part.interval or (None, None)
                    sure = part.n >= FEWEST and low is not None and high is not None
                    found.append(
                        Difference(
                            *(group, pair.of, label, pair.than, part.estimate),
                            (low, high) if sure else None,  # type: ignore[arg-type]
                            part.n,
                            [claim.main.number],
                            _after_holm(decision, part),
                            part.verdict == "contradicted" and decision.verdict == "inconclusive",
                        )
                    )
    return found


def _after_holm(decision: Decision, part: Part) -> frozenset[Finding]:
    """The findings whose direction a claim's verdict supports, if the verdict survives the correction."""
    if not decision.survives_holm or part.verdict != decision.verdict:
        return frozenset()
    refuting = [one.p for one in decision.parts if one.verdict == "contradicted" and one.p is not None]
    if refuting and part.p != min(refuting):
        return frozenset()  # one part refutes the whole claim, and only the p value of that part was corrected
    low, _ = part.region or (None, None)
    if part.kind in ("not_worse", "nothing") and low != -MARGIN:
        return frozenset()  # the claim has a different margin
    if part.kind == "about":  # a gain of stated size; a number outside of its range may be larger still
        gained = low is not None and low >= 0 and part.estimate is not None and part.estimate > low
        return frozenset({"gain"}) if gained else frozenset()
    stands_for: dict[tuple[str, str], frozenset[Finding]] = {
        ("better", "supported"): frozenset({"gain"}),
        ("better", "contradicted"): frozenset({"small", "loss", "large"}),
        ("not_worse", "supported"): frozenset({"equal"}),
        ("not_worse", "contradicted"): frozenset({"large"}),
        ("nothing", "supported"): frozenset({"equal"}),
    }
    return stands_for.get((part.kind, part.verdict), frozenset())


def _group(rows: Mapping[str, Any], controls: Mapping[tuple[str, str], str], pair: ledger.Pair) -> str | None:
    """The group of a comparison; None if the second network is not a control of the first."""
    if pair.than_model and not (pair.model and pair.than_model == pair.model):
        return None
    if group := controls.get((pair.of, pair.than)):
        if starts.is_plain_ensemble(rows[pair.of]["row"]):  # Part 3, which compares their mean of probabilities
            return group if pair.model == PROBABILITIES else None
        return group if not pair.model or group == "distillation" else None
    of, than = rows[pair.of], rows[pair.than]
    if of["start"] != "random" or than["start"] != "random" or of["parents"] or than["parents"]:
        return None
    if of["branches"] > 1 and than["branches"] == 1:
        return "one"
    if of["branches"] == than["branches"] and than["name"].startswith(f"{of['name']}{WITHOUT}"):
        return "ablation"
    return None
