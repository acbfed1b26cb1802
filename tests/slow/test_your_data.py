"""The example of docs/your_data.md, from a folder of images to a report."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coopnet import files

PROGRAM = (sys.executable, "-m", "coopnet")


def snippets(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def run(folder: Path, *command: str) -> str:
    """The output of a command."""
    done = subprocess.run([*command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_example_of_ones_own_data(root: Path, tmp_path: Path) -> None:
    """Digits as PNG files are described, pinned and trained on as on the page, and are in the report by their name."""
    page = root / "docs" / "your_data.md"
    (script, *_), (described, overlay, *_) = snippets(page, "python"), snippets(page, "yaml")
    for name in ("claims.yaml", "figures.yaml"):
        shutil.copy(root / name, tmp_path / name)
    params = (root / "params.yaml").read_text(encoding="utf-8")
    files.write_text(tmp_path / "params.yaml", params + "\n" + described)
    files.write_text(tmp_path / "studies" / "mine.yaml", overlay)
    run(tmp_path, sys.executable, "-c", script)
    line = run(tmp_path, *PROGRAM, "prepare", "digits_png")
    assert yaml.safe_load(line)["pinned"]["counts"] == {"train": 1438, "test": 359}
    files.write_text(tmp_path / "params.yaml", params + "\n" + described + line)
    for experiment in ("baseline", "one3"):
        run(tmp_path, *PROGRAM, "train", "mine", experiment, "0", "--evaluate")
    folder = tmp_path / "checkpoints" / "mine" / "train_one" / "one3" / "seed0"
    record = files.read_json(folder / "run.json")
    assert record["data"]["class_names"] == [f"digit_{digit}" for digit in range(10)]
    score = files.read_json(folder / "metrics.json")["final"]
    assert score["test"]["ensemble"]["top1"] > 70
    for command in ("tables", "claims", "report"):
        run(tmp_path, *PROGRAM, command, "mine")
    assert "digits_png" in (tmp_path / "reports" / "mine" / "index.html").read_text(encoding="utf-8")
