"""Both engines on one study, in every order: no finished run is trained again, and nothing stale counts as clean.

Trainings are counted in the journal that the training code keeps. Whenever a project counts as clean, DVC's records are
compared with the records of the runs.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import engines_fixture
from engines_fixture import ENGINES, EVERYTHING, GROWN, MAKE, NAME, TARGET, USERS, WIDE, Project, other

pytestmark = pytest.mark.slow

each_engine = pytest.mark.parametrize("engine", ENGINES)
each_user = pytest.mark.parametrize("user", USERS, indirect=True)
ALSO = list(USERS)[-1]  # an ordinary user if the tests run as root
first_user = pytest.mark.parametrize(("engine", "user"), [("snakemake", "oneself"), ("dvc", ALSO)], indirect=["user"])
second_user = pytest.mark.parametrize(("engine", "user"), [("snakemake", ALSO), ("dvc", "oneself")], indirect=["user"])

FASTER = {"experiments": {"one3_to_5_split": {"training": {"optimizer": {"lr": 0.02}}}}}
"""Another learning rate for a run that has a parent and a child."""

OTHER = {"training": {"batch_size": 40}}
"""A change that makes another run of any row."""

LONGER = {"experiments": {"one3_to_5_split": {"training": {"epochs": 1250}}}}
"""Five epochs: enough time to do something during the training."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that any user may enter, unlike pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="coopnet-engines-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def beginning(place: Path) -> Project:
    """The committed project from which all others are copied."""
    return engines_fixture.fresh(place / "beginning" / "project")


@pytest.fixture(scope="module")
def end(place: Path, beginning: Project) -> Project:
    """The same project after both engines have made it."""
    project = beginning.copy(place / "end" / "project")
    for engine in ENGINES:
        project.make(engine)
    project.trained()
    return project


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """The user of the project."""
    return str(getattr(request, "param", "oneself"))


@pytest.fixture
def new(place: Path, user: str) -> Iterator[Callable[[Project], Project]]:
    """A copy of a project for one test."""
    folder = Path(tempfile.mkdtemp(dir=place))
    folder.chmod(0o755)
    yield lambda project: project.copy(folder / "project", user)
    shutil.rmtree(folder)


@pytest.fixture
def fresh(beginning: Project, new: Callable[[Project], Project]) -> Project:
    """A project without any training."""
    return new(beginning)


@pytest.fixture
def made(end: Project, new: Callable[[Project], Project]) -> Project:
    """A project that both engines have made."""
    return new(end)


# 1


@first_user
def test_what_one_engine_made_the_other_does_not(fresh: Project, engine: str) -> None:
    """1. One engine trains every run once; the other trains nothing, and both then find nothing to do."""
    fresh.make(engine)
    assert fresh.trained() == EVERYTHING
    fresh.assert_clean()
    fresh.make(other(engine))
    assert fresh.trained() == []
    fresh.assert_clean()


def test_files_are_larger_than_what_the_engines_take_short_cuts_with(made: Project) -> None:
    """The scenarios include files over 1 MB."""
    sizes = [path.stat().st_size for path in (made.root / "checkpoints").rglob("*.safetensors")]
    assert min(sizes) < 1e6 < max(sizes)


# 2


@second_user
def test_edited_row_trains_itself_and_its_descendants(made: Project, engine: str) -> None:
    """2. Another learning rate: its run and its descendants train once; the other engine has nothing to do.

    DVC asks the phase of both runs and what follows from them, and no other phase.
    """
    made.edit(FASTER)
    first = made.make(engine)
    assert made.trained() == GROWN
    second = made.make(other(engine))
    assert made.trained() == []
    assert [*first.stages, *second.stages] == (
        ["plan", "finetune", "tables", "claims", "report"] if engine == "dvc" else []
    )
    made.assert_clean()


# 3


@each_engine
def test_reverted_edit_trains_nothing(made: Project, engine: str) -> None:
    """3. An edit that is reverted after one engine has made it leaves nothing to train for either engine."""
    results = made.results()
    before = made.edit({"experiments": {"one3_to_5_split_continued": OTHER}})
    made.make(engine)
    assert made.trained() == GROWN[-1:]
    assert made.results() != results
    made.revert(before)
    made.make(other(engine))
    made.make(engine)
    assert made.trained() == []
    assert made.results() == results
    made.assert_clean()


# 4


@each_engine
def test_added_seed_trains_alone(made: Project, engine: str) -> None:
    """4. A second seed: only its runs train; DVC reports what its stages need."""
    made.edit({"seeds": [0, 1]})
    made.make(engine)
    assert made.trained() == [run.replace("seed0", "seed1") for run in EVERYTHING]
    made.assert_clean()
    made.make(other(engine))
    assert made.trained() == []


@each_engine
def test_added_experiment_trains_alone(made: Project, engine: str) -> None:
    """4. Another row: only its run trains; DVC reports what its stages need."""
    add_rows(made, {"added": {"model": {"branches": 1}}})
    made.make(engine)
    assert made.trained() == ["added/seed0"]
    made.assert_clean()
    made.make(other(engine))
    assert made.trained() == []


def add_rows(project: Project, rows: dict[str, Any]) -> None:
    """Add experiments to `params.yaml`, and to the study."""
    with (project.root / "params.yaml").open("a") as parameters:  # the experiments are the last section
        for name, row in rows.items():
            parameters.write(f"  {name}: {json.dumps({'about': 'one more', **row})}\n")
    project.edit({"only": [*yaml.safe_load(project.overlay.read_text())["only"], *rows]})


# 5


@each_engine
def test_new_title_is_a_new_report_and_no_training(made: Project, engine: str) -> None:
    """5. The report has the new title; nothing trains with either engine."""
    page = made.root / "reports" / NAME / "index.html"
    made.edit({"title": "Another title"})
    assert "Another title" not in page.read_text()
    made.make(engine)
    assert "Another title" in page.read_text()
    made.make(other(engine))
    assert made.trained() == []
    made.assert_clean()


# 6


@each_engine
def test_words_in_the_source_train_nothing(made: Project, engine: str) -> None:
    """6. A comment and a docstring in deciding source: nothing trains, and no result differs."""
    results = made.results()
    module = made.root / "src/coopnet/training/optimizer.py"
    text, changed = re.subn(r'"""[^"]*"""', '"""Told differently."""', module.read_text(), count=2)
    assert changed == 2
    module.write_text(f"# A comment.\n{text}")
    made.make(engine)
    made.make(other(engine))
    assert made.trained() == []
    assert made.results() == results
    made.assert_clean()


@each_engine
def test_changed_source_makes_what_it_decides_stale(made: Project, engine: str) -> None:
    """6. Other code in a deciding module: every run is stale for both engines, and is trained once."""
    with (made.root / "src/coopnet/networks/merge.py").open("a") as module:
        module.write("\n\nADDED = 1\n")
    planned = made.snakemake("-n").said
    assert all(f"_run: {run} " in planned for run in EVERYTHING)
    assert "up to date" not in made.status()
    made.make(engine)
    assert made.trained() == EVERYTHING
    made.make(other(engine))
    assert made.trained() == []
    made.assert_clean()


# 7


@second_user
def test_restored_clone_is_clean_and_edits_train_their_rows(made: Project, engine: str) -> None:
    """7. A clone without a store fetches everything and trains nothing; an edit then trains its row and descendants."""
    made.dvc("remote", "add", "--default", "storage", "../remote")
    made.dvc("push", "--with-deps", TARGET)
    made.dvc("push", "prepare@digits")
    made.commit()
    clone = made.clone(made.root.parent / "clone")
    clone.dvc("pull", "--with-deps", TARGET)
    clone.dvc("pull", "prepare@digits")
    clone.assert_clean()
    clone.make(engine)
    assert clone.trained() == []
    assert clone.results() == made.results()
    clone.edit(FASTER)
    clone.make(engine)
    assert clone.trained() == GROWN
    clone.make(other(engine))
    assert clone.trained() == []
    clone.assert_clean()


# 8

REMEDY = r"(run|start) .*again|same command again|another DVC process is running"


def test_both_engines_at_once_train_each_run_once(fresh: Project) -> None:
    """8. Started together, they share the work: each run trains once, and an engine that gives up says what to do."""
    with fresh.start(*MAKE["snakemake"]) as one, fresh.start(*MAKE["dvc"]) as two:
        ended = {"snakemake": one.end(), "dvc": two.end()}
    assert fresh.trained() == EVERYTHING
    assert 0 in [done.code for done in ended.values()], ended
    for engine, done in ended.items():
        if done.code:
            assert re.search(REMEDY, done.said), done.said
            fresh.make(engine)
    assert fresh.trained() == []
    fresh.assert_clean()


# 9


@each_engine
def test_parameters_edited_during_training_are_not_recorded_for_it(made: Project, engine: str) -> None:
    """9. The run is refused, nothing is recorded with wrong parameters, and its result is kept."""
    made.edit(LONGER)
    with made.start(*MAKE[engine]) as started:
        started.wait_for(lambda: made.event("trained", GROWN[0]))
        before = made.edit(FASTER)
        ended = started.end()
    assert ended.code != 0
    assert "edited while it was trained" in ended.said
    made.recorded()
    assert "up to date" not in made.status(GROWN[0])
    assert made.trained() == GROWN[:1]
    made.revert(before)
    made.make(engine)
    assert made.trained() == GROWN[1:]
    made.assert_clean()


def test_neighbour_edited_during_training_is_not_recorded(made: Project) -> None:
    """9. One of two runs of a phase is edited after it was made, while the second still trains: DVC refuses both."""
    add_rows(made, {"slower": {"model": {"branches": 1, "gate": "none"}, "training": {"epochs": 25_000}}})
    made.edit({"experiments": {"baseline": OTHER}})
    with made.start(*MAKE["dvc"]) as started:
        started.wait_for(lambda: "1 of 3 steps" in started.said)
        assert made.event("finished", "baseline/seed0")
        assert not made.event("finished", "slower/seed0")
        made.edit({"experiments": {"baseline": {"training": {"batch_size": 25}}}})
        ended = started.end()
    assert ended.code != 0
    assert "tiny: parameters were edited after DVC had planned it" in ended.said
    assert "up to date" not in made.status("baseline/seed0")
    made.recorded()
    assert made.trained() == ["baseline/seed0", "slower/seed0"]
    made.make("dvc")
    assert made.trained() == ["baseline/seed0"]
    made.assert_clean()


def test_neighbour_replaced_during_training_is_not_recorded(made: Project) -> None:
    """9. Another command makes the edited neighbour, and the edit is taken back: DVC refuses the phase."""
    add_rows(made, {"slower": {"model": {"branches": 1, "gate": "none"}, "training": {"epochs": 50_000}}})
    made.edit({"experiments": {"baseline": OTHER}})
    with made.start(*MAKE["dvc"]) as started:
        started.wait_for(lambda: "1 of 3 steps" in started.said)
        before = made.edit({"experiments": {"baseline": {"training": {"batch_size": 25}}}})
        made.coopnet("train", NAME, "baseline", "0", "--evaluate")
        made.revert(before)
        assert not made.event("finished", "slower/seed0")
        ended = started.end()
    assert ended.code != 0
    assert "its results were replaced while they were made" in ended.said
    made.recorded()
    assert made.trained() == ["baseline/seed0", "baseline/seed0", "slower/seed0"]
    made.make("dvc")
    assert made.trained() == []
    made.assert_clean()


# 10


@pytest.mark.parametrize("victim", ["run", "engine"])
@each_engine
def test_killed_half_way_the_rest_is_recorded_and_the_same_command_resumes(
    made: Project, engine: str, victim: str
) -> None:
    """10. After SIGKILL to a run, or to everything, other results stay recorded, and the same command continues."""
    command = (*MAKE[engine], "--keep-going")
    made.edit(LONGER)
    made.edit({"experiments": {"baseline": OTHER}})  # another run to make in the same command
    with made.start(*command) as started:
        process = started.wait_for(lambda: made.saved(GROWN[0]))
        if victim == "engine":
            started.kill_all()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        assert started.end().code != 0
    # `baseline` is made before; a Snakemake that was killed could not have it recorded
    recorded = EVERYTHING[1:2] if (engine, victim) == ("snakemake", "engine") else EVERYTHING[:2]
    status = made.status(*recorded)
    assert "up to date" in status, status
    assert "up to date" not in made.status()  # the edit is still to be recorded
    made.recorded()
    made.trained()
    made.run(*command)
    assert made.event("resumed", GROWN[0])
    assert [run for run in made.trained() if run != EVERYTHING[0]] == GROWN
    made.assert_clean()


@each_engine
def test_failing_run_is_named_and_leaves_the_rest_recorded(made: Project, engine: str) -> None:
    """10. A failing run is named, its neighbour is made and recorded, and a corrected row trains."""
    before = made.edit({"experiments": {"baseline": OTHER, "one3_to_5_split": DIVERGING}})
    failed = made.run(*MAKE[engine], "--keep-going", fails=True)
    assert GROWN[0] in failed.said
    status = made.status(*EVERYTHING[:2])
    assert "up to date" in status, status
    made.recorded()
    made.trained()
    made.revert(before)
    made.make(engine)
    assert made.trained() == []
    made.assert_clean()


DIVERGING = {"training": {"epochs": 1250, "optimizer": {"lr": 1e30}}}
"""A learning rate with which no value stays finite."""


CUT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda lock: b"",
    "half": lambda lock: lock[: len(lock) // 2],
    "in a key": lambda lock: lock[: lock.rindex(b"nfiles") + 3],
    "before a value": lambda lock: lock[: lock.rindex(b"outs:\n") + 6],
    "in a digest": lambda lock: lock[: lock.rindex(b"md5: ") + 20],
    "after a stage": lambda lock: lock[: lock.rindex(f"  report@{NAME}:".encode())],
}
"""What DVC leaves of a lock if it is killed while writing it."""


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *(("studies/dvc.lock", cut) for cut in ("empty", "in a key", "before a value")),
        *((".dvc/tmp/rwlock", cut) for cut in ("empty", "half")),
    ],
)
def test_lock_that_was_left_half_written_is_recorded_anew(made: Project, name: str, cut: str) -> None:
    """10. DVC killed during the write of a lock refuses to start; `coopnet record` repairs the lock."""
    lock = made.root / name
    before = lock.read_bytes()
    lock.write_bytes(CUT[cut](before))
    made.make("dvc", fails=True)
    assert name in made.coopnet("record", NAME).said
    assert lock.name == "rwlock" or yaml.safe_load(lock.read_text()) == yaml.safe_load(before)
    made.make("dvc")
    assert made.trained() == []
    made.assert_clean()


@pytest.mark.parametrize("cut", ["in a digest", "after a stage"])
@each_engine
def test_lock_whose_rest_is_readable_is_completed(made: Project, engine: str, cut: str) -> None:
    """10. DVC takes such a lock for one of fewer stages: they are recorded again, and nothing is trained."""
    lock = made.root / "studies" / "dvc.lock"
    before = lock.read_bytes()
    lock.write_bytes(CUT[cut](before))
    assert "up to date" not in made.status()
    made.make("dvc") if engine == "dvc" else made.coopnet("record", NAME)
    assert yaml.safe_load(lock.read_text()) == yaml.safe_load(before)
    assert made.trained() == []
    made.assert_clean()


# 12

RUN = f"checkpoints/{NAME}/train_one/one3/seed0"
GROWTH = f"checkpoints/{NAME}/transfer/one3_to_5_split/seed0"
OUTPUTS = {
    f"{RUN}/model.safetensors": ("train_one_run", "one3/seed0"),
    f"{RUN}/logits.safetensors": ("train_one_run", "one3/seed0"),
    f"{RUN}/history.csv": ("train_one_run", "one3/seed0"),
    f"{RUN}/metrics.json": ("train_one_run", "one3/seed0"),
    f"{GROWTH}/model.safetensors": ("transfer_run", "one3_to_5_split/seed0 at transfer"),
    f"{GROWTH}/metrics.json": ("transfer_run", "one3_to_5_split/seed0 at transfer"),
    f"results/{NAME}/metrics.json": ("tables", "tables"),
    f"results/{NAME}/outcomes.safetensors": ("tables", "tables"),
    f"results/{NAME}/tables/accuracy.csv": ("tables", "tables"),
    f"results/{NAME}/claims.json": ("claims", "claims"),
    f"reports/{NAME}/index.html": ("report", "report"),
}
"""An output of each kind, with its rule and its stage."""


def edited(content: bytes) -> bytes:
    """Change one byte in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def truncated(content: bytes) -> bytes:
    """Remove the second half."""
    return content[: len(content) // 2]


@each_user
@pytest.mark.parametrize(("engine", "damage"), [("snakemake", truncated), ("dvc", edited)])
def test_damaged_outputs_are_made_again(made: Project, engine: str, damage: Callable[[bytes], bytes]) -> None:
    """12. Outputs of every kind, edited or truncated, are restored bit for bit, without training."""
    before = {path: (made.root / path).read_bytes() for path in OUTPUTS}
    for path, content in before.items():
        (made.root / path).write_bytes(damage(content))
    made.make(engine)
    assert made.trained() == []
    assert [path for path, content in before.items() if (made.root / path).read_bytes() != content] == []
    made.make(other(engine))
    assert made.trained() == []
    made.assert_clean()


@pytest.mark.parametrize("damage", [truncated, edited])
def test_each_damaged_output_is_named(made: Project, damage: Callable[[bytes], bytes]) -> None:
    """12. For each single damaged output both engines name it, and want to make it again."""
    for path, (rule, stage) in OUTPUTS.items():
        kept = made.root.parent / "kept"
        shutil.copy2(made.root / path, kept)
        (made.root / path).write_bytes(damage(kept.read_bytes()))
        planned = made.snakemake("-n").said
        assert [line for line in planned.splitlines() if "warning:" in line and path in line], (path, planned)
        assert re.search(rf"^Job \d+: {rule}:", planned, re.MULTILINE), (path, planned)
        status = made.status(stage)
        assert re.search(r"modified: +", status), (path, status)
        shutil.copy2(kept, made.root / path)
    made.assert_clean()


@pytest.mark.parametrize("damage", [truncated, edited, None])
def test_damaged_plan_is_written_again(made: Project, damage: Callable[[bytes], bytes] | None) -> None:
    """12. DVC names a plan that is damaged or gone, and has it written again; no other stage runs."""
    before = made.planned()
    path = made.root / "checkpoints" / NAME / "plan" / "train_one.json"
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    assert re.search(rf"(modified|deleted): +checkpoints/{NAME}/plan", made.status())
    done = made.make("dvc")
    assert done.stages == ["plan"], done.said
    assert made.planned() == before
    assert made.trained() == []
    made.assert_clean()


# 13


def test_second_clone_with_other_cores_makes_the_same_bytes(beginning: Project, made: Project) -> None:
    """13. From an empty store, on one core: every metrics file, table and report equals that of two cores."""
    clone = beginning.clone(made.root.parent / "clone")
    clone.snakemake(cores=1)
    assert clone.trained() == EVERYTHING
    mine, theirs = clone.results(), made.results()
    assert sorted(mine) == sorted(theirs)
    assert [path for path, content in mine.items() if content != theirs[path]] == []


# 14

SECOND_GENERATION: dict[str, Any] = {
    "one3_to_7_split": {  # finetune, then transfer again
        "parents": ["one3_to_5_split"],
        "model": {"branches": 7},
        "start": {"kind": "split"},
        "training": {"epochs": 100},
    },
    "merge2": {
        "parents": ["baseline", "baseline"],
        "model": {"branches": 2},
        "start": {"kind": "merge", "trunk": "first"},
        "training": {"epochs": 100},
    },
    "merge2_distilled": {  # merge and finetune, then distil
        "parents": ["merge2"],
        "model": {"branches": 1, "gate": "none"},
        "training": {"distillation": {"kind": "soft_labels"}},
    },
    "merge2_distilled_ensemble2": {  # distil, then ensemble
        "parents": ["merge2_distilled", "merge2_distilled"],
        "model": {"branches": 2, "gate": "mean", "trunk": "own"},
        "start": {"kind": "combine"},
        "training": {"epochs": 0},
    },
}
"""Rows that start from a grown, a merged and a distilled network: against the order of DVC's stages."""

OF_ONE3 = ["one3/seed0", "one3_to_5_split/seed0", "one3_to_5_split_continued/seed0", "one3_to_7_split/seed0"]
OF_BASELINE = [
    *(f"baseline/seed{seed}" for seed in range(4)),  # two for each merge, which are two for the students' ensemble
    *(f"{name}/seed{seed}" for name in ("merge2", "merge2_distilled") for seed in range(2)),
]


def test_second_generation_is_trained_once_and_follows_the_first(fresh: Project) -> None:
    """14. Rows against the order of phases: each trains once, and an edit in the first generation affects all."""
    add_rows(fresh, SECOND_GENERATION)
    fresh.edit({"experiments": {"one3_to_7_split": WIDE}})
    fresh.make("dvc")
    assert fresh.trained() == sorted(OF_BASELINE + OF_ONE3)
    fresh.assert_clean()
    fresh.make("dvc")
    fresh.make("snakemake")
    assert fresh.trained() == []
    fresh.assert_clean()
    for engine, row, descendants in (("dvc", "baseline", OF_BASELINE), ("snakemake", "one3", OF_ONE3)):
        fresh.edit({"experiments": {row: OTHER}})
        fresh.make(engine)
        assert fresh.trained() == descendants
        fresh.make(other(engine))
        assert fresh.trained() == []
        fresh.assert_clean()


# Tests of the checks above


def test_false_record_is_seen(made: Project) -> None:
    """A lock with another learning rate, or another key, than that of the run does not count as clean."""
    lock = made.root / "studies" / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    made.recorded()
    parameters = content["stages"][f"plan@{NAME}"]["params"][f"studies/{NAME}.yaml"]
    parameters["every_experiment"]["training"]["optimizer"] = {"lr": 0.5}
    lock.write_text(yaml.safe_dump(content))
    with pytest.raises(AssertionError, match="baseline/seed0"):
        made.recorded()
    made.edit({"experiments": {"one3": OTHER}})
    made.dvc("repro", f"studies/dvc.yaml:plan@{NAME}")
    lied = yaml.safe_load(lock.read_text())
    members = made.members(lied["stages"][f"plan@{NAME}"]["outs"][0]["md5"])
    (dependency,) = lied["stages"][f"train_one@{NAME}"]["deps"]
    dependency["md5"] = members["train_one.json"]
    lock.write_text(yaml.safe_dump(lied))
    with pytest.raises(AssertionError, match="one3/seed0"):
        made.recorded()
