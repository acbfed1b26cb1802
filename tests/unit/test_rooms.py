"""The rooms of the package: their modules, and that no room imports from a later one."""

import ast
import re
from pathlib import Path

import pytest

import coopnet
from conftest import ROOT

PACKAGE = Path(coopnet.__file__).parent

ROOMS = (
    *("files", "data", "study", "networks", "training", "runs", "evaluation", "library", "deploy", "claims", "report"),
    "commands",
)
"""The rooms, in the order in which they may import from each other."""

LOOSE = {"__init__.py", "__main__.py", "cli.py", "py.typed"}
"""The modules that may be at the package's root."""


def imported(path: Path) -> set[str]:
    """The rooms that a module imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "coopnet":
            names = [f"{node.module}.{alias.name}".split(".")[1] for alias in node.names]
            found |= set(names)
    return found & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_against_the_order_of_rooms(room: str) -> None:
    """A room imports from itself and from those before it."""
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    modules = sorted((PACKAGE / room).rglob("*.py"))
    assert modules
    assert {
        str(path.relative_to(PACKAGE)): imported(path) - allowed for path in modules if imported(path) - allowed
    } == {}


def test_everything_lies_in_a_room() -> None:
    """Only the command line and the public names are at the package's root."""
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == set(ROOMS) | LOOSE


def test_page_on_the_architecture_names_the_rooms() -> None:
    """The page names all rooms, in order."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert tuple(name for row in rows for name in re.findall(r"`(\w+)/`", row.split("|")[1])) == ROOMS
