"""The page of guarantees agrees with the tests that it names."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")


def items() -> list[tuple[str, bool]]:
    """Each item of the page on one line, and whether it is a promise."""
    found: list[tuple[str, bool]] = []
    promised = True
    for line in PAGE.splitlines():
        if line.startswith("## ") or line == "Not promised:":
            promised = line.startswith("## ")
        elif line.startswith("- "):
            found.append((line, promised))
        elif line.startswith("  "):
            found[-1] = (found[-1][0] + line, promised)
    return found


def functions_of(path: Path) -> set[str]:
    """The tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_promise_is_held_by_a_test() -> None:
    """Each promise names at least one existing test; items that are not promises name none."""
    promises = [line for line, promised in items() if promised]
    assert len(promises) > 50
    for line in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", line)
        assert named, line
        for file, test in named:
            assert test in functions_of(next((ROOT / "tests").rglob(file))), f"{file}::{test}"
    assert not [line for line, promised in items() if not promised and "::" in line]


def test_page_is_linked() -> None:
    """The README links to the page."""
    assert "(docs/guarantees.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
