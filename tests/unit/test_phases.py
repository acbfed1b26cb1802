"""Each row belongs to one phase of the method, and a transfer is a separate run."""

from conftest import ROOT
from coopnet import study
from coopnet.study import phases

FULL = study.load(ROOT)


def phase_of(name: str) -> str:
    """The phase that makes the runs of a row of the full study."""
    return FULL.run(name, 0).phase


def test_rows_of_the_full_study_have_the_phases_of_the_method() -> None:
    """Trained, grown, merged, taught and fine-tuned networks each have a phase."""
    expected = {
        "baseline": "train_baseline",
        "one1": "train_one",
        "one3_no_gate": "train_one",
        "one3_continued": "finetune",
        "one3_to_5_split": "finetune",
        "merge3_refit": "finetune",
        "merge3_mean_bn": "merge",
        "one1_ensemble3": "ensemble",
        "baseline_distilled": "distil",
        "mutual2": "distil",
    }
    assert {name: phase_of(name) for name in expected} == expected


def test_transfers_are_built_by_the_phase_of_their_kind() -> None:
    """Growth of several branches, expansion of one, and merges begin with a transfer; nothing else does."""
    found = {name: run.transfer.phase for (name, seed), run in FULL.runs.items() if seed == 0 and run.transfer}
    assert found["one3_to_5_zero_pad"] == "transfer"
    assert found["expand1to5_masked"] == found["embed1in3"] == "expand"
    assert found["merge3_refit"] == found["combine3"] == "merge"
    for (name, _), run in FULL.runs.items():
        assert (name in found) == (run.phase == "finetune" and run.row.start.kind != "continue"), name


def test_every_run_has_a_place_of_its_own() -> None:
    """Phase, experiment and seed identify one network; each comes after the runs that it is made from."""
    everything = list(FULL.everything())
    places = [(run.phase, run.experiment, run.seed) for run in everything]
    assert len(set(places)) == len(places)
    assert {run.phase for run in everything} == set(phases.TRAINING)
    seen = set()
    for run in everything:
        assert {source.key for source in run.sources} <= seen, run.name
        seen.add(run.key)


def test_key_of_a_transfer_does_not_depend_on_its_training() -> None:
    """Rows that differ only in their training share the network at transfer; other starts do not."""
    keys = {name: FULL.run(name, 0).transfer.key for name in ("one3_to_5_zero_pad", "one3_to_5_published")}  # type: ignore[union-attr]
    assert len(set(keys.values())) == 1
    masked = {FULL.run(name, 0).transfer.key for name in ("one3_to_5_masked", "one3_to_5_masked_early")}  # type: ignore[union-attr]
    assert len(masked) == 1
    assert FULL.run("one3_to_5_split", 0).transfer.key not in {*keys.values(), *masked}  # type: ignore[union-attr]
    assert FULL.run("one3_to_5_masked", 0).key != FULL.run("one3_to_5_masked_early", 0).key


def test_dvc_knows_every_study() -> None:
    """The list in studies/dvc.yaml names each overlay."""
    listed = study.read_yaml(ROOT / "studies" / "dvc.yaml")["vars"][0]["studies"]
    assert listed == [name for name in study.names(ROOT) if name != study.FULL]


def test_dvc_has_a_stage_for_each_phase() -> None:
    """Both files have the plan, the phases that make networks, then tables, claims and report."""
    wanted = ["plan", *phases.TRAINING, "tables", "claims", "report"]
    assert list(study.read_yaml(ROOT / "studies" / "dvc.yaml")["stages"]) == wanted
    assert list(study.read_yaml(ROOT / "dvc.yaml")["stages"]) == ["prepare", *wanted]
