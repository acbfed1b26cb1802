"""The commands and the workflow, as a user runs them: a study of a few seconds, in its own workspace."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, flip
from coopnet import study
from coopnet.runs.store import Store
from coopnet.runs.workspace import EVALUATED
from tiny_fixture import BIN, TINY, bits, call, edit, make_workspace, train, trained, transfer


def test_interrupted_by_signals_the_result_is_the_same(workspace: Path, prepared: Path, tmp_path: Path) -> None:
    """After SIGTERM (saved at once) and SIGKILL (saved at the last epoch) the same command gives the same bits."""
    edit(workspace, lambda study: study.update(time_scale=0.04))
    other = make_workspace(tmp_path / "undisturbed", prepared)
    shutil.copy(workspace / "studies" / "tiny.yaml", other / "studies" / "tiny.yaml")
    undisturbed = call(other, "coopnet", "train", "tiny", "one3", "0", store=str(tmp_path / "other-store"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(
            [BIN / "coopnet", "train", "tiny", "one3", "0"], cwd=workspace, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch" in line and "loss" in line:
                break
        process.send_signal(number)
        process.stderr.read()
        assert process.wait() == code
    done = train(workspace, "one3")
    assert done.returncode == 0, done.stderr
    assert "continuing at epoch" in done.stderr
    assert bits(workspace) == bits(other)
    lines = [json.loads(line) for line in (tmp_path / "store" / "journal.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {"tiny/one3/seed0"}
    assert [line["event"] for line in lines] == ["trained", "resumed", "resumed", "finished"]


def test_time_limit_stops_cleanly_and_continues(workspace: Path) -> None:
    """`--max-minutes 0` stops after a step with exit code 75, and says how to continue."""
    stopped = train(workspace, "one3", max_minutes=0)
    assert stopped.returncode == 75
    assert "the same command again continues" in stopped.stderr
    assert not (workspace / "checkpoints").exists()
    assert "continuing at epoch 0, step 1" in train(workspace, "one3").stderr


def test_finished_runs_are_taken_from_the_store(workspace: Path, own_store: Path, prepared: Path) -> None:
    """Removed outputs are copied without training and without torch; damaged outputs do not reach the store."""
    assert trained(train(workspace, "one3"))
    before = bits(workspace)
    weights = workspace / "checkpoints/tiny/train_one/one3/seed0/model.safetensors"
    weights.write_bytes(b"damaged")
    weights.with_name("run.json").unlink()
    [entry] = (own_store / "runs").iterdir()
    (own_store / "unfinished" / entry.name / "a").mkdir(parents=True)  # of a process killed after the last step
    again = train(workspace, "one3")
    assert "nothing to train" in again.stderr
    assert not list((own_store / "unfinished").iterdir())
    assert bits(workspace) == before
    code = "import sys; sys.argv = ['coopnet', 'train', 'tiny', 'one3', '0']\n"
    code += "from coopnet.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    looked = subprocess.run([sys.executable, "-c", code], cwd=workspace, capture_output=True, text=True)
    assert looked.stdout.strip() == "False"


def test_renaming_is_free_and_editing_is_not(workspace: Path) -> None:
    """A study with renamed rows copies everything from the store; a new learning rate trains."""
    train(workspace, "one3")
    edit(workspace, lambda study: study.update(title="Another title", experiments={"one3": {"about": "new words"}}))
    assert not trained(train(workspace, "one3"))
    edit(workspace, lambda study: study["experiments"].update(one3={"training": {"optimizer": {"lr": 0.02}}}))
    assert trained(train(workspace, "one3"))


def test_child_of_a_missing_or_stale_parent_is_refused(workspace: Path) -> None:
    """No network is built from a missing or stale one; the message names it."""
    refused = transfer(workspace, "one3_to_5_split")
    assert refused.returncode == 1
    assert refused.stderr.startswith("one3/seed0 of study tiny is missing")
    assert "coopnet train tiny one3 0" in refused.stderr
    train(workspace, "one3")
    refused = train(workspace, "one3_to_5_split")
    assert refused.returncode == 1
    assert refused.stderr.startswith("one3_to_5_split/seed0 at transfer of study tiny is missing")
    assert "coopnet transfer tiny one3_to_5_split 0" in refused.stderr
    assert "transfers nothing" in transfer(workspace, "one3_continued").stderr
    edit(workspace, lambda study: study.update(experiments={"one3": {"training": {"batch_size": 40}}}))
    assert transfer(workspace, "one3_to_5_split").returncode == 1


def test_parameters_edited_under_a_running_workflow_are_refused(workspace: Path) -> None:
    """A job whose key has changed since it was planned does not train another run under its name."""
    refused = train(workspace, "one3", key="0" * 32)
    assert refused.returncode == 1
    assert "has changed since the workflow was started" in refused.stderr


@pytest.mark.parametrize("part", ["device", "libraries", "source"])
def test_state_of_another_machine_or_version_is_not_continued(workspace: Path, own_store: Path, part: str) -> None:
    """Saved state of another device, library or source is reported by name, and neither used nor overwritten."""
    assert train(workspace, "one3", max_minutes=0).returncode == 75
    (index,) = (own_store / "unfinished").glob("*/*/state.json")
    state = json.loads(index.read_text())
    state["identity"][part] = {"other": "1.0"}
    index.write_text(json.dumps(state))
    other = index.parent.rename(index.parent.with_name("other"))
    again = train(workspace, "one3", max_minutes=0)
    assert f"another machine, version or parent ({part} there {{'other': '1.0'}}" in again.stderr
    assert "continuing" not in again.stderr
    assert (other / "state.json").read_text() == json.dumps(state)


def test_damaged_state_is_noticed(workspace: Path, own_store: Path) -> None:
    """One flipped bit in the saved state is noticed and named, and the run starts over with the right bits."""
    assert train(workspace, "one3", max_minutes=0).returncode == 75
    (tensors,) = (own_store / "unfinished").glob("*/*/*.safetensors")
    flip(tensors)
    again = train(workspace, "one3")
    assert tensors.name in again.stderr
    assert "starts over" in again.stderr
    assert again.returncode == 0


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_damaged_parent_is_noticed(workspace: Path, name: str, own_store: Path) -> None:
    """A parent's file that differs from its record is named; the store's copy is used, or the growth is refused."""
    train(workspace, "one3")
    path = workspace / "checkpoints/tiny/train_one/one3/seed0" / name
    flip(path)
    healed = transfer(workspace, "one3_to_5_split")
    assert f"differs from the record of one3/seed0: {path}; the copy in the run store is used" in healed.stderr
    assert healed.returncode == 0
    shutil.rmtree(own_store / "runs")
    shutil.rmtree(workspace / "checkpoints/tiny/transfer")
    refused = transfer(workspace, "one3_to_5_split")
    assert refused.returncode == 1
    assert "one3/seed0 of study tiny is missing, is damaged" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_training_can_evaluate_at_once(workspace: Path) -> None:
    """`--evaluate` writes the same bytes as the separate command, and nothing if training was stopped."""
    command, folder = (
        ("coopnet", "train", "tiny", "one3", "0", "--evaluate"),
        workspace / "checkpoints/tiny/train_one/one3/seed0",
    )
    assert call(workspace, *command, "--max-minutes", "0").returncode == 75
    assert not (folder / "metrics.json").exists()
    assert call(workspace, *command).returncode == 0
    made = {name: (folder / name).read_bytes() for name in EVALUATED}
    for name in EVALUATED:
        (folder / name).unlink()
    assert call(workspace, "coopnet", "evaluate", "tiny", "one3", "0").returncode == 0
    assert {name: (folder / name).read_bytes() for name in EVALUATED} == made


def test_logits_of_another_run_are_refused(workspace: Path) -> None:
    """Metrics are computed only from the logits in the run's record."""
    train(workspace, "one3")
    path = workspace / "checkpoints/tiny/train_one/one3/seed0/logits.safetensors"
    flip(path)
    refused = call(workspace, "coopnet", "evaluate", "tiny", "one3", "0")
    assert refused.returncode == 1
    assert "is not the file that" in refused.stderr


def test_bf16_where_it_is_emulated_is_warned_of(workspace: Path) -> None:
    """bf16 on a CPU without hardware support gives a warning with the remedy."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
    if flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        pytest.skip("this CPU has bf16")
    edit(workspace, lambda study: study["every_experiment"]["training"].update(precision="bf16"))
    assert "bf16 is emulated" in train(workspace, "one3", max_minutes=0).stderr


def test_cuda_without_a_gpu_is_refused(workspace: Path) -> None:
    """A study for the GPU on a machine without one gives one line with the remedies."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    edit(workspace, lambda study: study.update(device="cuda"))
    refused = train(workspace, "one3")
    assert refused.returncode == 1
    assert "set device: cpu" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_study_does_not_depend_on_cores(workspace: Path, prepared: Path, tmp_path: Path) -> None:
    """One core or two, from empty stores: the same bytes in every result, table and report; then nothing to do."""
    edit(workspace, lambda study: study.update(only=["one3", "one3_to_5_masked"]))
    other = make_workspace(tmp_path / "two" / "workspace", prepared)
    shutil.copy(workspace / "studies" / "tiny.yaml", other / "studies" / "tiny.yaml")
    for folder, cores, store in ((workspace, "1", "store-1"), (other, "2", "store-2")):
        arguments = ("snakemake", "--cores", cores, "--config", "study=tiny")
        made = call(folder, *arguments, store=str(tmp_path / store))
        assert made.returncode == 0, made.stdout + made.stderr
        again = call(folder, *arguments, store=str(tmp_path / store))
        assert "Nothing to be done" in again.stdout + again.stderr
    assert bits(workspace) == bits(other)
    for name in ("index.html", "report.pdf"):
        assert (workspace / "reports/tiny" / name).read_bytes() == (other / "reports/tiny" / name).read_bytes()
    masked = workspace / "checkpoints/tiny/transfer/one3_to_5_masked/seed0/metrics.json"
    assert json.loads(masked.read_text())["final"]["test"]["versus_parent"]["exact"]
    gathered = json.loads((workspace / "results/tiny/metrics.json").read_text())
    assert gathered["one3_to_5_masked/seed0"]["at_transfer"] == json.loads(masked.read_text())["final"]


def test_edited_row_reruns_itself_and_its_descendants_alone(workspace: Path) -> None:
    """Snakemake plans exactly the runs that an edit affects; a new title plans no training."""
    arguments = ("snakemake", "--cores", "2", "--config", "study=tiny")
    for experiment in TINY["only"]:  # type: ignore[attr-defined]
        if "_to_5_" in experiment:
            assert transfer(workspace, experiment).returncode == 0
            assert call(workspace, "coopnet", "evaluate", "tiny", experiment, "0", "--at-transfer").returncode == 0
        assert train(workspace, experiment).returncode == 0
        assert call(workspace, "coopnet", "evaluate", "tiny", experiment, "0").returncode == 0

    def planned() -> set[tuple[str, str]]:
        dry = call(workspace, *arguments, "--dry-run")
        return set(re.findall(r"^Job \d+: (\w+)_run: (\w+)/seed", dry.stdout + dry.stderr, re.MULTILINE))

    split = {("transfer", "one3_to_5_split"), ("finetune", "one3_to_5_split")}
    masked = {("transfer", "one3_to_5_masked"), ("finetune", "one3_to_5_masked")}
    edit(workspace, lambda study: study.update(experiments={"one3_to_5_split": {"start": {"noise": 0.3}}}))
    assert planned() == split
    edit(workspace, lambda study: study.update(experiments={"one3": {"training": {"batch_size": 40}}}))
    assert planned() == {("train_one", "one3"), ("finetune", "one3_continued")} | split | masked
    edit(workspace, lambda study: study.update(experiments={}, title="Another"))
    assert planned() == set()


def test_what_was_only_evaluated_otherwise_waits_for_no_gpu(workspace: Path) -> None:
    """A run without training needs one core and no GPU; a line at the start says what has to be done."""
    edit(workspace, lambda study: study.update(only=["one3", "one3_continued", "one3_to_5_split"], threads=2))
    for experiment in ("one3", "one3_continued"):
        assert train(workspace, experiment).returncode == 0
    assert transfer(workspace, "one3_to_5_split").returncode == 0
    assert call(workspace, "coopnet", "evaluate", "tiny", "one3_to_5_split", "0", "--at-transfer").returncode == 0
    assert call(workspace, "coopnet", "evaluate", "tiny", "one3", "0").returncode == 0
    edit(workspace, lambda study: study.update(device="cuda"))
    dry = call(workspace, "snakemake", "--dry-run", "--cores", "2", "--config", "study=tiny")
    said = dry.stdout + dry.stderr
    assert "tiny: 1 of 4 networks to make, 1 more to evaluate" in said, said
    jobs = dict(re.findall(r"^Job \d+: finetune_run: (\w+)/seed0 \((.*)\)$", said, re.MULTILINE))
    assert jobs == {"one3_continued": "threads: 1, GPUs: 0", "one3_to_5_split": "threads: 2, GPUs: 1"}


@pytest.mark.parametrize("name", ["full", "core", "mini"])
def test_dry_run_plans_every_run(name: str, tmp_path: Path) -> None:
    """`snakemake -n` plans a job per run and per transfer, by phase, and a GPU if the study needs one."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for part in ("params.yaml", "claims.yaml", "figures.yaml", "Snakefile", "studies", "workflow", "profiles"):
        (folder / part).symlink_to(ROOT / part)
    planned = call(folder, "snakemake", "-n", "--cores", "8", "--resources", "gpu=1", "--config", f"study={name}")
    output = planned.stdout + planned.stderr
    assert planned.returncode == 0, output
    counts = dict(line.split() for line in output.splitlines() if len(line.split()) == 2)
    runs = list(study.load(ROOT, name).everything())
    jobs = Counter(f"{run.phase}_run" for run in runs)
    assert {rule: int(counts[rule]) for rule in jobs} == jobs
    asked = [line for line in output.splitlines() if line.endswith("GPUs: 1)")]
    assert len(asked) == (0 if name == "mini" else len(runs))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study=tinny"], "did you mean 'tiny'"),
        (["study=2024"], "there is no study '2024'"),
        (["study="], "--config study= names no study"),
        (["lr=0.2"], "--config lr is not known"),
    ],
)
def test_bad_configuration_is_refused_before_anything_runs(workspace: Path, arguments: list[str], words: str) -> None:
    """A wrong study name, or an option that the commands would not see, gives one line and an exit code above 0."""
    refused = call(workspace, "snakemake", "--cores", "1", "--config", *arguments)
    assert refused.returncode != 0
    assert words in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr


def test_metrics_of_another_run_are_not_tabulated(workspace: Path) -> None:
    """A new run without evaluation has no valid metrics; the tables refuse the old ones by name."""
    edit(workspace, lambda study: study.update(only=["one3"]))
    train(workspace, "one3")
    call(workspace, "coopnet", "evaluate", "tiny", "one3", "0")
    assert call(workspace, "coopnet", "tables", "tiny").returncode == 0
    edit(workspace, lambda study: study.update(experiments={"one3": {"training": {"batch_size": 40}}}))
    train(workspace, "one3")
    refused = call(workspace, "coopnet", "tables", "tiny")
    assert refused.returncode == 1
    assert "one3 seed 0" in refused.stderr
    assert "metrics.json was computed for another run" in refused.stderr


def test_a_failed_job_leaves_earlier_results_alone(workspace: Path) -> None:
    """Existing results, for example committed ones, are replaced only by new ones, and not deleted before."""
    assert train(workspace, "one3").returncode == 0
    before = bits(workspace)
    edit(workspace, lambda study: study.update(device="cuda", only=["one3"]))
    edit(workspace, lambda study: study["every_experiment"]["training"].update(batch_size=40))
    import torch

    if torch.cuda.is_available():
        pytest.skip("the job would not fail on this machine")
    failed = call(workspace, "snakemake", "--cores", "1", "--config", "study=tiny", "--until", "train_one_run")
    assert failed.returncode != 0
    assert bits(workspace) == before


def test_two_processes_train_one_run_once(workspace: Path) -> None:
    """If two processes request a run at the same time, one trains and the other waits for it."""
    processes = [
        subprocess.Popen(
            [BIN / "coopnet", "train", "tiny", "one3", "0"], cwd=workspace, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("epoch 1/" in log for log in logs) == 1


def test_typo_in_params_is_one_line(workspace: Path) -> None:
    """A typing error in params.yaml is reported with the nearest valid key, by commands and workflow."""
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("    epochs: 300", "    epoch: 300"))
    for arguments in (("coopnet", "train", "full", "one3", "0"), ("snakemake", "-n")):
        refused = call(workspace, *arguments)
        assert refused.returncode != 0
        assert "did you mean 'epochs'?" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("name", ["claims.yaml", "figures.yaml"])
def test_typo_in_what_is_read_last_stops_everything_first(workspace: Path, name: str) -> None:
    """A mistake in the claims or the published figures is reported before anything is trained."""
    path = workspace / name
    good = path.read_text()
    path.write_text(re.sub(r"\bone3\b", "one33", good))
    for words in (["snakemake", "-n", "--config", "study=tiny"], ["coopnet", "check", "tiny"]):
        refused = call(workspace, *words)
        assert refused.returncode != 0
        assert f"error: {name}" in refused.stdout + refused.stderr
        assert "'one33'" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stderr
    path.write_text(good)
    assert re.search(
        r"it has the networks of \d+ of the \d+ claims", call(workspace, "coopnet", "check", "tiny").stderr
    )


@pytest.mark.slow
def test_imported_checkpoint_is_a_parent(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published checkpoint is imported, evaluated and grown; its own preprocessing is required."""
    import torch

    import test_lan2018 as published

    monkeypatch.setattr(published, "CLASSES", 10)
    torch.manual_seed(0)
    model = published.Published(3)
    torch.save(published.checkpoint(model, published.trained(model)), tmp_path / "net.pth.tar")
    out = ("--out", "imported/net")
    done = call(workspace, "coopnet", "import", str(tmp_path / "net.pth.tar"), "--layout", "lan2018", *out)
    assert done.returncode == 0, done.stderr

    rows = yaml.safe_load((workspace / "params.yaml").read_text())
    common = {"data": {"normalization": "lan2018"}, "seeds": [0]}
    origin = {"about": "published", "start": {"kind": "imported", "path": "imported/net"}, "training": {"epochs": 0}}
    child = {"about": "grown", "parents": ["net"], "model": {"branches": 5}, "start": {"kind": "split", "noise": 0}}
    child["training"] = {"epochs": 100}
    rows["experiments"] |= {"net": origin | common, "net_grown": child | common}
    (workspace / "params.yaml").write_text(yaml.safe_dump(rows))
    edit(workspace, lambda study: study.update(only=["net", "net_grown"]))
    edit(workspace, lambda study: study["every_experiment"]["model"].update(width=16))

    for name in ("net", "net_grown"):
        if name == "net_grown":
            assert transfer(workspace, name).returncode == 0
            assert call(workspace, "coopnet", "evaluate", "tiny", name, "0", "--at-transfer").returncode == 0
        made = train(workspace, name)
        assert made.returncode == 0, made.stderr
        assert call(workspace, "coopnet", "evaluate", "tiny", name, "0").returncode == 0
    for step in ("tables", "claims", "report"):
        assert call(workspace, "coopnet", step, "tiny").returncode == 0
    metrics = json.loads((workspace / "results/tiny/metrics.json").read_text())["net_grown/seed0"]
    assert metrics["at_transfer"]["test"]["versus_parent"]["exact"]
    page = (workspace / "reports/tiny/index.html").read_text()
    assert "net_grown" in page

    rows["experiments"]["net"]["data"]["normalization"] = "dataset"
    rows["experiments"]["net_grown"]["data"]["normalization"] = "dataset"
    (workspace / "params.yaml").write_text(yaml.safe_dump(rows))
    refused = train(workspace, "net")
    assert refused.returncode == 1
    assert "set data.normalization: lan2018" in refused.stderr


def test_runs_tells_the_state_of_each_run(workspace: Path) -> None:
    """`coopnet runs` shows missing, resumable (with epoch), finished and stale runs, and those in the store."""

    def state(experiment: str) -> str:
        listed = call(workspace, "coopnet", "runs", "tiny")
        (line,) = [line for line in listed.stdout.splitlines() if line.startswith(f"{experiment}/seed0 ")]
        return re.split(" {2,}", line)[1]

    assert state("one3") == "missing"
    train(workspace, "one3", max_minutes=0)
    assert state("one3") == "resumable at epoch 0 of 3"
    train(workspace, "one3")
    assert state("one3") == "finished"
    shutil.rmtree(workspace / "checkpoints")
    assert state("one3") == "in the store"
    train(workspace, "one3")
    edit(workspace, lambda study: study.update(experiments={"one3": {"training": {"batch_size": 40}}}))
    assert state("one3") == "stale: training.batch_size was 50"


def test_garbage_of_the_store_is_named_before_it_is_removed(workspace: Path, own_store: Path) -> None:
    """Unused entries are listed, and removed only on request; entries that studies and results refer to stay."""
    assert train(workspace, "one3").returncode == 0
    left = study.load(workspace, "tiny").run("one3", 0).key
    assert "Nothing to remove" in call(workspace, "coopnet", "runs", "gc").stdout
    edit(workspace, lambda study: study.update(experiments={"one3": {"training": {"batch_size": 40}}}))
    assert "Nothing to remove" in call(workspace, "coopnet", "runs", "gc").stdout  # its files are still here
    assert train(workspace, "one3").returncode == 0
    kept = study.load(workspace, "tiny").run("one3", 0).key
    said = call(workspace, "coopnet", "runs", "gc").stdout
    assert "depth 8, 3 branches, 3 epochs, seed 0" in said
    assert left in said
    assert kept not in said
    assert (own_store / "runs" / left).is_dir()
    assert "Removed" in call(workspace, "coopnet", "runs", "gc", "--yes").stdout
    assert [path.name for path in (own_store / "runs").iterdir()] == [kept]


def test_garbage_is_kept_where_other_worktrees_share_the_store(workspace: Path, own_store: Path) -> None:
    """What they need is not known here: the list names them, and `--yes` is refused."""
    left, other = own_store / "unfinished" / ("a" * 32), workspace.parent / "other"
    left.mkdir(parents=True)
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for arguments in (("init",), ("commit", "--allow-empty", "-m", "start"), ("worktree", "add", str(other))):
        subprocess.run(["git", *who, *arguments], cwd=workspace, check=True, capture_output=True)
    assert f"other worktrees share this store, and what they need is not known here: {other}" in (
        call(workspace, "coopnet", "runs", "gc").stdout
    )
    refused = call(workspace, "coopnet", "runs", "gc", "--yes")
    assert refused.returncode == 1
    assert "nothing is removed, because other worktrees share this store" in refused.stderr
    assert left.is_dir()


def test_run_that_is_being_made_is_not_garbage(workspace: Path, own_store: Path) -> None:
    """A run that another process is making is kept, even if nothing refers to it."""
    busy = Store(own_store)
    (busy.unfinished("a" * 32)).mkdir(parents=True)
    with busy.lock("a" * 32):
        assert "Kept 1 run that other" in call(workspace, "coopnet", "runs", "gc", "--yes").stdout
        assert busy.unfinished("a" * 32).is_dir()
    assert "Removed" in call(workspace, "coopnet", "runs", "gc", "--yes").stdout
    assert not busy.unfinished("a" * 32).exists()
