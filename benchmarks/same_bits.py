"""Prove that this version of the numerics computes the bits of the first one, and record that: `make same-bits`.

One run of every kind is trained by the current source, and by the source of the first version whose results are still
in use. Keys, weights, optimiser state, histories and logits must be equal bit for bit.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from coopnet.study import numerics

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "tests" / "unit" / "trained_bits.py"
LOCK = ROOT / "src" / "coopnet" / "study" / numerics.LOCK

VERSION = """
from pathlib import Path
try:
    from coopnet.study import numerics
except ImportError:  # before the package had subpackages
    from coopnet import numerics
package = Path(numerics.__file__).parents[numerics.__name__.count(".") - 1]
print(getattr(numerics, "source_version", lambda package: numerics.source_hash())(package))
"""
"""Prints the exact version of the numerics on the path. The first version had no notion of equal versions."""


def run_python(source: Path, folder: Path, *arguments: str) -> str:
    """Run Python with the package in `source`, and return its output."""
    environment = os.environ | {"PYTHONPATH": str(source), "COOPNET_STORE": str(folder / "store")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def check_out(version: str, folder: Path) -> bool:
    """Unpack the newest commit with exactly this version of the numerics; False if there is none."""
    places = ["src/coopnet/numerics.py", "src/coopnet/study/numerics.py", "src/coopnet/study/numerics.json"]
    commits = subprocess.run(
        ["git", "log", "--format=%H", "--", *places], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for commit in commits.stdout.split():
        archive = subprocess.run(
            ["git", "archive", commit, "src", "params.yaml", "studies"], cwd=ROOT, capture_output=True
        )
        there = folder / commit
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(there, filter="data")
        if run_python(there / "src", there, "-c", VERSION) == version:
            there.rename(folder / "then")
            return True
    return False


def trained(source: Path, folder: Path, first: Path) -> dict[str, Any]:
    """Train one run of every kind with the package in `source`; return keys and digests by name."""
    overlay = yaml.safe_load((first / "studies/demo_all.yaml").read_text())
    overlay["every_experiment"]["data"] |= {"training_subset": 200, "augmentation": "crop_flip"}
    overlay["time_scale"] = 0.022  # others make the first version end `one1` at its learning-rate drop
    for row in overlay["experiments"].values():  # narrower networks crash the first version without AVX512
        if "width" in row.get("model", {}):
            row["model"]["width"] = max(8, row["model"]["width"])
    (folder / "studies").mkdir(parents=True)
    (folder / "params.yaml").write_text((first / "params.yaml").read_text())
    (folder / "studies/kinds.yaml").write_text(yaml.safe_dump(overlay))
    run_python(source, folder, "-m", "coopnet", "prepare", "digits")
    content: dict[str, Any] = json.loads(run_python(source, folder, str(TRAIN), "kinds").splitlines()[-1])
    return content


def differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """The runs whose keys, files or tensors differ, and in what; and the runs that only one version has.

    Earlier versions kept the logits at transfer for every run with a parent; they are compared if both versions have
    them.
    """
    different = [f"{run}: only one version has it" for run in sorted(now.keys() ^ then.keys())]
    for run in sorted(now.keys() & then.keys()):
        mine, theirs = now[run]["files"], then[run]["files"]
        names = [name for name in mine.keys() | theirs.keys() if ":step0_" not in name or name in mine]
        wrong = sorted(name for name in names if mine.get(name) != theirs.get(name))
        wrong += ["key"] if now[run]["key"] != then[run]["key"] else []
        if wrong:
            different.append(f"{run}: {', '.join(wrong)}")
    return different


def main() -> int:
    """Train, compare, and record the version if nothing differs."""
    own, known = numerics.own_version(), numerics.same_bits()
    first = next(iter(known.values()))
    entry = json.dumps({own: first}, indent=2, sort_keys=True) + "\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A copy, so that edits of the source have no effect; it already has the entry, on which its keys depend.
        copy = Path(shutil.copytree(ROOT / "src", folder / "now"))
        (copy / LOCK.relative_to(ROOT / "src")).write_text(entry, encoding="utf-8")
        if not check_out(first, folder):
            print(f"the git history does not contain version {first} (a shallow clone)", file=sys.stderr)
            return 1
        then = trained(folder / "then" / "src", folder / "old", folder / "then")
        now = trained(copy, folder / "new", folder / "then")
    if different := differences(now, then):
        print(f"{len(different)} of {len(then)} runs have other bits; their results are stale", *different, sep="\n")
        return 1
    LOCK.write_text(entry, encoding="utf-8")
    print(f"{len(then)} runs have the same bits in this version, {own[:12]}, and in {first[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
