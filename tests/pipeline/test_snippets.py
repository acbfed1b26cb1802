"""Every snippet of the pages about the library runs, from the first to the last, in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["library", "export", "backbone"])
def test_snippets_run(page: str, tmp_path: Path) -> None:
    """Python snippets run in one process, as a reader would type them; commands run as they are."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```(python|sh)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(snippets) == text.count("\n```") // 2
    script = ["import contextlib, sys", "from coopnet.cli import main"]
    for kind, code in snippets:
        if kind == "python":
            script.append(code)
            continue
        for line in code.splitlines():
            program, *arguments = line.split()
            assert program == "coopnet"
            script.append(f"sys.argv = ['coopnet', *{arguments!r}]\nwith contextlib.suppress(SystemExit): main()")
            script.append("sys.argv = ['-']")
    (tmp_path / "page.py").write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "coopnet: error" not in done.stderr
    accuracies = [float(value) for value in re.findall(r"^\d branches: (0\.\d+|1\.0+)$", done.stdout, re.MULTILINE)]
    assert len(accuracies) == (2 if page == "library" else 0)
    assert all(accuracy > 0.8 for accuracy in accuracies), accuracies
