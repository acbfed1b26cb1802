"""Damage to any file that the pipeline writes and reads is reported, with its name, before the file is used.

The table of kinds comes from the contracts (`workspace.py`), and a finished study contains no other files.
"""

import fnmatch
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import stamps
from coopnet import study
from coopnet.claims import entries
from coopnet.data import canonical
from coopnet.data.datasets import DATASETS
from coopnet.files.digests import Digests
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.runs import checkpoint, records, steps
from coopnet.runs.resume import INDEX, ResumeFolder
from coopnet.runs.store import JOURNAL
from coopnet.runs.workspace import EVALUATED, GATHERED, MADE, PREPARED, REPORT, TABLES, targets
from coopnet.study import Run
from finished_fixture import Home, made_once

ALONE = "timing.csv"
"""Timings: only invalid numbers are noticed, and no other figure depends on them."""

Action = Callable[[Home], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        path: the damaged file, relative to the home of a finished study; `{run}` and `{slot}` are filled in.
        pattern: of all files of the kind.
        readers: commands that read it; each must refuse it, or report it and do without it.
        mend: makes it again, with the same bytes; None if only people write it.
        twin: another run's file of the same name.
    """

    path: str
    pattern: str
    readers: tuple[Action, ...]
    mend: Action | None = None
    twin: str | None = None


# Readers, and commands that restore files


def look(home: Home) -> None:
    """Compare every run and step by content, like `coopnet runs` and every start of the workflow."""
    plan = home.plan()
    problems = [records.check_run(home.workspace, plan, run, Digests()) for run in plan.everything()]
    every = [steps.evaluate(home.workspace, plan, run) for run in plan.everything()]
    every += steps.of_all_runs(home.workspace, plan)
    problems += [records.check_step(home.workspace, step, Digests()) for step in every]
    raise CoopNetError("; ".join(one.text for one in problems if one is not None))


def load_arrays(home: Home) -> None:
    """Load the prepared arrays like training."""
    canonical.load(home.workspace.prepared("digits"), DATASETS["digits"])


def grow(home: Home) -> None:
    """Grow the parent again, without a stored result."""
    shutil.rmtree(home.root / "store")
    shutil.rmtree(home.workspace.run(home.plan(), transfer_of(home)))
    home.transfer()


def go_on(home: Home) -> None:
    """Fine-tune the network at transfer again, without a stored result."""
    shutil.rmtree(home.root / "store")
    shutil.rmtree(home.workspace.run(home.plan(), home.run("one3_to_5_split")))
    home.train(experiment="one3_to_5_split")


def transfer_of(home: Home) -> Run:
    """The network right after the growth."""
    found = home.run("one3_to_5_split").transfer
    assert found is not None
    return found


def take(home: Home) -> None:
    """Copy the run from the store into an empty workspace."""
    plan, run = home.plan(), home.run()
    wanted = targets(home.workspace, plan, run)
    for path in wanted.values():
        path.unlink()
    with home.here():
        taken = home.store.restore(run.key, wanted)
    assert not taken
    assert not any(path.exists() for path in wanted.values())


def resume(home: Home) -> None:
    """Continue the interrupted run: the saved state is not used."""
    unfinished = home.plan("unfinished").run("one3", 2).key
    folder = next(home.store.unfinished(unfinished).glob(f"*/{INDEX}")).parent
    assert ResumeFolder(folder.parent, IDENTITY[folder.name]).load() is None


IDENTITY: dict[str, dict[str, object]] = {}
"""The saved state of unfinished runs before any damage, by the name of the folder."""


def imported(home: Home) -> None:
    """Load an imported checkpoint like training."""
    folder = home.workspace.root / "imported" / "net"
    checkpoint.read(folder, study.imported_record(folder))


def adopt(home: Home) -> None:
    """Run the same `coopnet train` again."""
    assert home.train() == 0


def again(*commands: str) -> Action:
    """Commands of the study, one after another."""

    def action(home: Home) -> None:
        for command in commands:
            getattr(home, command)()

    return action


CLAIMED = ("metrics.json", "outcomes.safetensors")
"""The gathered files from which the claims are decided."""


def kinds() -> dict[str, Kind]:
    """The table, from the contracts."""
    found: dict[str, Kind] = {}

    def add(name: str, path: str, *readers: Action, mend: Action | None = None, **other: str) -> None:
        found[name] = Kind(f"workspace/{path}", f"workspace/{path}", readers, mend)
        for key, value in other.items():
            found[name] = Kind(**(vars(found[name]) | {key: value}))

    for file, twin in zip(PREPARED, ("", *(f"data/prepared/digits/{name}" for name in PREPARED[:0:-1])), strict=True):
        add(f"prepared/{file}", f"data/prepared/digits/{file}", load_arrays, mend=again("prepare"), twin=twin)
    readers: dict[str, tuple[Action, ...]] = {
        "run.json": (look, again("evaluate"), again("tables")),
        "history.csv": (look, again("tables")),
        ALONE: (),
        "logits.safetensors": (look, again("evaluate")),
    }
    weights = (look, grow)
    trained, other = "checkpoints/tiny/train_one/one3/seed0", "checkpoints/other/train_one/one3/seed1"
    grown, pattern = "checkpoints/tiny/transfer/one3_to_5_split/seed0", "workspace/checkpoints/*/seed*/"
    for file in MADE:
        read = readers.get(file, weights)
        add(f"run/{file}", f"{trained}/{file}", *read, mend=adopt, pattern=pattern + file, twin=f"{other}/{file}")
    for file in ("model.safetensors", "optimizer.safetensors"):
        add(f"transfer/{file}", f"{grown}/{file}", look, go_on, mend=again("transfer"), twin=f"{trained}/{file}")
    for file in (*EVALUATED, "evaluation.json"):
        read = (look,) if file == "evaluation.json" else (look, again("tables"))
        twin = f"{other}/{file}"
        add(f"evaluated/{file}", f"{trained}/{file}", *read, mend=again("evaluate"), pattern=pattern + file, twin=twin)
    add(
        "evaluated at transfer/metrics.json",
        *(f"{grown}/metrics.json", look, again("tables")),
        mend=again("evaluate_transfer"),
        twin=f"{trained}/metrics.json",
    )
    for file in GATHERED:
        read = (look, *((again("claims"),) if file in CLAIMED else ()))
        where = {"pattern": f"workspace/results/*/{file}", "twin": f"results/other/{file}"}
        add(f"gathered/{file}", f"results/tiny/{file}", *read, mend=again("tables"), **where)
    for file in (*TABLES, ALONE):
        pattern, other = f"workspace/results/*/tables/{file}", f"results/other/tables/{file}"
        read = () if file == ALONE else (look, again("report"))
        read += (again("claims"),) if file == "compute.csv" else ()
        add(f"tables/{file}", f"results/tiny/tables/{file}", *read, mend=again("tables"), pattern=pattern, twin=other)
    claims = {"pattern": "workspace/results/*/claims.json", "twin": "results/other/claims.json"}
    add("claims", "results/tiny/claims.json", look, again("report"), mend=again("claims"), **claims)
    add("timing page", "reports/tiny/timing.html", look, mend=again("timing"))
    for file in ("model.safetensors", "optimizer.safetensors"):
        add(f"imported/{file}", f"imported/net/{file}", imported, twin=f"{trained}/{file}")
    add("imported/model.json", "imported/net/model.json", imported, twin=f"{trained}/run.json")

    for file in MADE:
        path, pattern = "store/runs/{run}/" + file, f"store/runs/*/{file}"
        found[f"store/{file}"] = Kind(path, pattern, (take,), adopt, "store/runs/{other}/" + file)
    for file in (INDEX, "a.safetensors", "b.safetensors"):
        path = "store/unfinished/{unfinished}/{identity}/" + file.replace("a.", "{slot}.").replace("b.", "{idle}.")
        twin = path.replace("{unfinished}", "{neighbour}").replace("{slot}", "{same}").replace("{idle}", "{same}")
        name = {"a.safetensors": "state that counts", "b.safetensors": "state before"}.get(file, file)
        read = () if name == "state before" else (resume,)
        found[f"unfinished/{name}"] = Kind(path, f"store/unfinished/*/*/{file}", read, None, twin)
    return found


KINDS = kinds()

REMEMBERED = ("digests.json", "train_one/one3-seed0", "tables")
"""Files that only save work: after any damage to them at most something is made again."""

RECORDS = ("results/*/tables.record.json", "results/*/claims.record.json", "reports/*/timing.record.json")
"""Records of steps: a damaged one makes the outputs stale, so that they are made again."""

PEOPLE = ("params.yaml", "studies/tiny.yaml", "claims.yaml", "figures.yaml")
"""Files that people write: an edit is not damage, but an unreadable file is refused."""

READ_BY_NOBODY = {
    f"store/{JOURNAL}": "a chronicle for people; lines are added, none is read",
    "store/locks/*.lock": "empty; the kernel's lock is on the file, nothing is in it",
    "workspace/studies/*.yaml": "of other studies",
}

PAGES = {f"workspace/reports/tiny/{file}" for file in REPORT} | {"workspace/reports/*/figures/*.svg"}
"""The end of the pipeline; SVG files are part of the page, and other files are read while the page is made."""


# Kinds of damage


def flip(path: Path, twin: Path | None, chance: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, twin: Path | None, chance: random.Random) -> None:
    """Truncate a file."""
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def empty(path: Path, twin: Path | None, chance: random.Random) -> None:
    """Delete the content of a file."""
    os.truncate(path, 0)


def replace(path: Path, twin: Path | None, chance: random.Random) -> None:
    """Replace it by another run's intact file."""
    assert twin is not None
    if twin.read_bytes() == path.read_bytes():  # a table with a header only
        pytest.skip("the other study has the same file")
    shutil.copyfile(twin, path)


def unreadable(path: Path, twin: Path | None, chance: random.Random) -> None:
    """A file that any user can open but not read: `read` fails as on a broken disk."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def folder(path: Path, twin: Path | None, chance: random.Random) -> None:
    """Replace it by a folder."""
    path.unlink()
    path.mkdir()


DAMAGES = {one.__name__: one for one in (flip, truncate, empty, replace, unreadable, folder)}
BITS = 3
"""Number of seeded bits of a file that are flipped, one after another."""


@pytest.fixture(scope="session")
def study_made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The finished study, made once; tests get copies."""
    home = made_once(tmp_path_factory)
    for index in home.root.glob(f"store/unfinished/*/*/{INDEX}"):
        IDENTITY[index.parent.name] = json.loads(index.read_text())["identity"]
    return home


@pytest.fixture
def home(study_made: Home, tmp_path: Path) -> Home:
    """A copy of the study for this test."""
    return study_made.copy(tmp_path / "home")


def place(home: Home, path: str) -> Path:
    """The path of an entry of the table in a home."""
    if "{" in path:
        unfinished, neighbour = (home.plan("unfinished").run("one3", seed).key for seed in (2, 3))
        index = next(home.store.unfinished(neighbour if "{neighbour}" in path else unfinished).glob(f"*/{INDEX}"))
        slot = json.loads(index.read_text())["tensors"][0]
        names = {"run": home.run().key, "other": home.run("one3_to_5_split").key, "identity": index.parent.name}
        names |= {"unfinished": unfinished, "neighbour": neighbour, "slot": slot, "idle": "ab".replace(slot, "")}
        path = path.format(**names, same=slot)
    return home.root / path


def twin_of(home: Home, kind: Kind) -> Path:
    """Another run's file of the same name."""
    path = kind.path.partition("/")[0] + "/" + (kind.twin or "")
    return place(home, kind.twin if (kind.twin or "").startswith("store/") else path)


def noticed(action: Action, home: Home, caplog: pytest.LogCaptureFixture) -> str:
    """The messages to the user, one line each."""
    caplog.clear()
    said = []
    with caplog.at_level(logging.WARNING):
        try:
            action(home)
        except CoopNetError as error:
            said.append(str(error))
    said += [record.getMessage() for record in caplog.records]
    assert all(len(line.splitlines()) == 1 for line in said), said
    return "\n".join(said)


CASES = [
    # In a fast run each kind has one of the damages, in turn.
    pytest.param(
        *(kind, damage),
        id=f"{name}-{damage}",
        marks=() if list(DAMAGES)[place % len(DAMAGES)] == damage else pytest.mark.slow,
    )
    for place, (name, kind) in enumerate(KINDS.items())
    for damage in DAMAGES
    if not (damage == "replace" and not kind.twin) and not name.endswith(f"/{ALONE}")
]


@pytest.mark.parametrize(("kind", "damage"), CASES)
def test_damage_is_noticed_by_name(
    kind: Kind, damage: str, study_made: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every reader names the file and does not use it; the command that made it makes the same bytes again."""
    chance = random.Random(f"{kind.path} {damage}")
    for number in range(BITS if damage == "flip" else 1):
        for reader in kind.readers:
            home = study_made.copy(tmp_path / f"{number}{kind.readers.index(reader)}")
            path = place(home, kind.path)
            state = chance.getstate()
            DAMAGES[damage](path, twin_of(home, kind) if damage == "replace" else None, chance)
            told = noticed(reader, home, caplog)
            assert path.relative_to(home.root).as_posix().removeprefix("workspace/") in told, (reader, told)
            chance.setstate(state)
        chance.random()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "damage"), [case for case in CASES if case.values[0].mend])
def test_damage_is_mended_by_the_same_command(kind: Kind, damage: str, study_made: Home, home: Home) -> None:
    """The command that made the file makes the same bytes again; it refuses to delete a folder in its place."""
    path = place(home, kind.path)
    DAMAGES[damage](path, twin_of(home, kind) if damage == "replace" else None, random.Random(damage))
    assert kind.mend is not None
    if damage == "folder" and not kind.path.startswith("store/"):
        with pytest.raises(CoopNetError, match="directory"):
            kind.mend(home)
        path.rmdir()
    kind.mend(home)
    assert home.promised() == study_made.promised()
    if ALONE not in path.name:
        assert path.read_bytes() == place(study_made, kind.path).read_bytes()


def test_every_file_is_of_a_known_kind(study_made: Home) -> None:
    """A finished study has no file that is missing in the table: a new kind of file needs an entry."""
    patterns = {kind.pattern for kind in KINDS.values()} | set(READ_BY_NOBODY)
    patterns |= {f"workspace/{path}" for path in (*PEOPLE, *RECORDS)} | remembered(study_made)
    found = study_made.files()
    assert [name for name in found if not any(fnmatch.fnmatch(name, one) for one in patterns | PAGES)] == []
    for pattern in {kind.pattern for kind in KINDS.values()} | set(READ_BY_NOBODY):
        assert fnmatch.filter(found, pattern), f"nothing is of kind {pattern}"


def remembered(home: Home) -> set[str]:
    """All stamps and digest caches of the studies."""
    names = set()
    for plan in map(home.plan, ("tiny", "other")):
        names |= {f"{plan.name}/digests.json"} | {step.name for step in steps.of_all_runs(home.workspace, plan)}
        names |= {f"{plan.name}/{run.phase}/{run.experiment}-seed{run.seed}" for run in plan.everything()}
    return {f"workspace/.stamps/{name}" for name in names}


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "replace"])
@pytest.mark.parametrize("name", REMEMBERED)
def test_damaged_memory_hides_nothing(name: str, damage: str, home: Home) -> None:
    """After any damage to stamps and digest caches, a damaged result is still found, and they are restored."""
    path = home.workspace.stamps / "tiny" / name
    DAMAGES[damage](path, None, random.Random(name))
    result = home.workspace.run(home.plan(), home.run()) / "metrics.json"
    result.write_bytes(result.read_bytes().replace(b"0", b"1", 1))
    step = steps.evaluate(home.workspace, home.plan(), home.run())
    assert (
        records.check_step(home.workspace, step, Digests(home.workspace.stamps / "tiny" / "digests.json")) is not None
    )
    stamp = path.suffix != ".json"
    if (damage == "folder" and (stamp or path.name == "digests.json")) or (damage == "unreadable" and stamp):
        with pytest.raises(CoopNetError, match=name):
            home.refresh()
    if damage == "folder":
        path.rmdir()
    elif damage == "unreadable":
        path.unlink(missing_ok=True)
    home.refresh()
    home.evaluate()
    home.refresh()
    assert stamps.run_stamp(home.workspace, home.plan(), "train_one", "one3", 0).stat().st_mtime == stamps.LONG_AGO


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("name", [path.replace("*", "tiny") for path in RECORDS])
def test_damaged_record_of_a_step_makes_it_stale(name: str, damage: str, home: Home, study_made: Home) -> None:
    """Its outputs count as stale, and the same command makes the same bytes and a valid record."""
    path = home.workspace.root / name
    twin = home.workspace.root / name.replace("tiny", "other") if "timing" not in name else home.run_record()
    DAMAGES[damage](path, twin, random.Random(name))
    (step,) = (one for one in steps.of_all_runs(home.workspace, home.plan()) if one.record == path)
    problem = records.check_step(home.workspace, step, Digests())
    assert problem is not None
    assert problem.kind == "stale"
    if damage == "folder":
        path.rmdir()
    getattr(home, step.name.partition("/")[2])()
    assert home.promised() == study_made.promised()
    assert records.check_step(home.workspace, step, Digests()) is None


def read_all(home: Home) -> None:
    """The files that every start of the workflow reads first."""
    rows = study.rows(home.workspace.root)
    entries.read(home.workspace.claims_file, rows, home.plan().experiments)
    published.read(home.workspace.published, rows)


@pytest.mark.parametrize("damage", ["empty", "unreadable", "folder"])
@pytest.mark.parametrize("name", PEOPLE)
def test_what_people_write_is_refused_if_it_cannot_be_read(name: str, damage: str, home: Home) -> None:
    """An unreadable parameter file stops everything, and is named."""
    path = home.workspace.root / name
    DAMAGES[damage](path, None, random.Random(0))
    with pytest.raises(CoopNetError, match=name) as error:
        read_all(home)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_wall_clock_figures_reach_nothing_else(
    damage: str, study_made: Home, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """A `timing.csv` that is not a table is refused by name; any other change of it changes no promised byte."""
    path = home.workspace.run(home.plan(), home.run()) / ALONE
    twin = home.workspace.run(home.plan("other"), home.plan("other").run("one3", 1)) / ALONE
    DAMAGES[damage](path, twin, random.Random(damage))
    told = noticed(again("tables"), home, caplog)
    if told:
        assert path.parent.relative_to(home.workspace.root).as_posix() in told
    kept = {name: content for name, content in study_made.promised().items() if not name.endswith("tables.record.json")}
    assert home.promised().items() >= kept.items()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_journal_changes_no_result(damage: str, home: Home) -> None:
    """With any content of the journal, runs are made and found, and a new event is on its own line."""
    journal = home.root / "store" / JOURNAL
    DAMAGES[damage](journal, None, random.Random(2))
    shutil.rmtree(home.root / "store" / "runs")
    assert home.train() == 0
    home.store.log_event("trained", "key", "tiny/one3/seed0")
    assert json.loads(journal.read_text().splitlines()[-1])["key"] == "key"


def test_damaged_everywhere_is_trained_again_to_the_same_bytes(study_made: Home, home: Home) -> None:
    """A run that is damaged in the store and missing in the workspace is trained again."""
    run = home.run()
    for path in targets(home.workspace, home.plan(), run).values():
        path.unlink()
    flip(home.store.folder(run.key) / "model.safetensors", None, random.Random(0))
    assert home.train() == 0
    assert home.promised() == study_made.promised()


def test_timing_is_taken_from_the_store_again(home: Home) -> None:
    """It has no digest; what is no table is noticed, and the store has it."""
    path = home.workspace.run(home.plan(), home.run()) / ALONE
    before = path.read_bytes()
    path.write_text("")
    adopt(home)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_interrupted_run_with_damaged_state_ends_in_the_same_bytes(home: Home) -> None:
    """One run continues from its state, the other starts again without it: the results are equal."""
    key = home.plan("unfinished").run("one3", 2).key
    other = home.copy(home.root.parent / "other")
    flip(next(other.store.unfinished(key).glob(f"*/{INDEX}")), None, random.Random(0))
    for one in (home, other):
        assert one.train("unfinished", "one3", 2) == 0
    assert home.promised() == other.promised()


@pytest.mark.slow
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_report_is_named_and_made_again(damage: str, home: Home) -> None:
    """Every changed page of a report is reported by name, and the same command makes the same bytes."""
    home.report()
    before = home.promised()
    chance = random.Random(damage)
    step = steps.report(home.workspace, home.plan().name)
    for page in step.outputs:
        copy = home.copy(home.root.parent / f"{damage}-{page.name}")
        DAMAGES[damage](copy.root / page.relative_to(home.root), home.workspace.root / "params.yaml", chance)
        problem = records.check_step(copy.workspace, steps.report(copy.workspace, copy.plan().name), Digests())
        assert problem is not None
        assert page.name in problem.text
    for page in step.outputs:
        if damage != "folder":
            DAMAGES[damage](page, home.workspace.root / "params.yaml", chance)
    home.report()
    assert home.promised() == before
    assert any(fnmatch.fnmatch(name, pattern) for name in home.files() for pattern in PAGES)
