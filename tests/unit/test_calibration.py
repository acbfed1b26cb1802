"""The tolerances of NLL and ECE at transfer, within which the calibration is kept, are those of claims.yaml."""

from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from coopnet import files
from test_claims import by_branches, ledger_of, made

TOLERANCE = {"nll": 0.001, "ece": 0.05}


@pytest.mark.parametrize("factor", [1, 10])
def test_a_rise_beyond_the_tolerance_is_not_kept(tmp_path: Path, factor: int) -> None:
    """For three equal networks an increase of 0.9 tolerances is kept and one of 1.1 is not, for any tolerance."""
    workspace, plan = made(tmp_path, by_branches)
    claims = yaml.safe_load((ROOT / "claims.yaml").read_text())
    claim = claims["masked_keeps_calibration"]
    tolerance = {name: factor * value for name, value in TOLERANCE.items()}
    claim["parts"] = [dict(part, tolerance=tolerance) for part in claim["parts"]]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"masked_keeps_calibration": claim}))
    for score, unit in (("nll", "nats"), ("ece", "ECE points")):
        for share, verdict in ((0.9, "supported"), (1.1, "contradicted")):
            rise = {score: share * tolerance[score]}
            path = workspace.results(plan.name) / "metrics.json"
            metrics = files.read_json(path)
            for seed in range(3):
                block = metrics[f"one3_to_5_masked/seed{seed}"]["at_transfer"]["test"]
                parent = block["versus_parent"]["parent"]
                block["ensemble"] |= {name: parent[name] + rise.get(name, 0.0) for name in TOLERANCE}
            files.write_json(path, metrics)
            found = ledger_of(workspace)["masked_keeps_calibration"]
            assert found["verdict"] == verdict, (score, share)
            (part,) = (part for part in found["parts"] if part["unit"] == unit)
            assert part["estimate"] == pytest.approx(rise[score])


def test_tolerances_of_this_project_are_small() -> None:
    """Every start has the same tolerances: 0.001 nats and 0.05 points."""
    claims = yaml.safe_load((ROOT / "claims.yaml").read_text())
    found = [part["tolerance"] for claim in claims.values() for part in claim["parts"] if "tolerance" in part]
    assert found == [TOLERANCE] * 5
