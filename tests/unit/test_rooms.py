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
"""The rooms, each after those from which it imports."""

BUILDS_ON = {
    "files": (),
    "data": ("files",),
    "study": ("data",),
    "networks": ("study",),
    "training": ("networks",),
    "runs": ("training",),
    "evaluation": ("runs",),
    "library": ("runs",),
    "deploy": ("evaluation", "library"),
    "claims": ("evaluation",),
    "report": ("claims", "deploy"),
    "commands": ("report",),
}
"""The lines of the picture in docs/architecture.md, downwards."""

LOOSE = {"__init__.py", "__main__.py", "cli.py", "py.typed"}
"""The modules that may be at the package's root."""


def imported(path: Path) -> set[str]:
    """The rooms that a module of the package imports from."""
    return rooms_in(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE))


def rooms_in(source: str, module: Path) -> set[str]:
    """The rooms that source imports from, by any form of import.

    Args:
        source: Python source.
        module: its path in the package, for relative imports.
    """
    names: list[str] = []
    package = ("coopnet", *module.parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else ()
            start = [*origin, *([node.module] if node.module else [])]
            names += [".".join([*start, alias.name]) for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "coopnet" and len(part) > 1} & set(ROOMS)


@pytest.mark.parametrize(
    "line",
    [
        "from coopnet.report import page",
        "from coopnet import report",
        "import coopnet.report.page",
        "from ..report import page",
        "from .. import report",
    ],
)
def test_every_form_of_import_is_seen(line: str) -> None:
    """Absolute and relative imports, of a room and of a module in it."""
    assert rooms_in(line, Path("runs/store.py")) == {"report"}
    assert rooms_in("from . import records\nimport json", Path("runs/store.py")) == {"runs"}


def below(room: str) -> set[str]:
    """The room, and all rooms to which lines of the picture lead down from it."""
    return {room}.union(*(below(other) for other in BUILDS_ON[room]))


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_against_the_order_of_rooms(room: str) -> None:
    """A room imports from itself and from those below it in the picture."""
    modules = sorted((PACKAGE / room).rglob("*.py"))
    assert modules
    against = {str(path.relative_to(PACKAGE)): imported(path) - below(room) for path in modules}
    assert {path: rooms for path, rooms in against.items() if rooms} == {}


def test_no_command_imports_another() -> None:
    """What two commands need is in a room."""
    for path in (PACKAGE / "commands").glob("*.py"):
        assert "commands" not in imported(path), path.name


def test_everything_lies_in_a_room() -> None:
    """Only the command line and the public names are at the package's root."""
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == set(ROOMS) | LOOSE


def test_page_on_the_architecture_shows_the_rooms() -> None:
    """The table has all rooms, in order; the picture has each once, below those that build on it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert tuple(name for row in rows for name in re.findall(r"`(\w+)/`", row.split("|")[1])) == ROOMS
    picture = page.split("```")[1].splitlines()
    heights = {name: height for height, line in enumerate(picture) for name in re.findall(r"[a-z]+", line)}
    assert len(re.findall(r"[a-z]+", "".join(picture))) == len(ROOMS)
    assert heights.keys() == set(ROOMS)
    for room, others in BUILDS_ON.items():
        assert all(heights[room] < heights[other] for other in others), room
