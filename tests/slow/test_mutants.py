"""The tests of the science detect errors in it, and the list of errors matches the source."""

import ast
import subprocess
import sys
from typing import Any

import pytest

import mutants
from conftest import ROOT

MODULES: dict[str, Any] = mutants.LISTED["modules"]


@pytest.mark.parametrize("module", MODULES)
def test_listed_survivors_are_mutants_of_the_source(module: str) -> None:
    """Each has a reason and is still a mutant of the tool; the named tests exist."""
    names = {mutant.name for mutant in mutants.mutants(ast.parse((mutants.SOURCE / module).read_bytes()))}
    survivors = MODULES[module].get("survivors", {})
    assert survivors.keys() <= names
    assert all(survivors.values())
    assert all((ROOT / test.partition("::")[0]).is_file() for test in MODULES[module]["tests"])


@pytest.mark.parametrize("error", mutants.LISTED["by_hand"], ids=lambda error: error["name"])
def test_errors_by_hand_fit_the_source(error: dict[str, Any]) -> None:
    """The code that an error replaces occurs once in its module; the replacement is valid and another program."""
    changed = mutants.by_hand(error).tree
    assert ast.dump(changed) != ast.dump(ast.parse((mutants.SOURCE / error["module"]).read_bytes()))


def test_mutants_are_single_errors() -> None:
    """The mutants of a small function, by hand: each is another program, and the source is not changed."""
    tree = ast.parse(
        "def f(x, y=1):\n    'Words.'\n    if x < 0 and y:\n        raise ValueError(x + 1)\n    return -x / 2.0\n"
    )
    before = ast.unparse(tree)
    found = {mutant.name: mutant for mutant in mutants.mutants(tree)}
    assert ast.unparse(tree) == before
    assert sorted(found) == [
        "f: -x / 2.0 → -x * 2.0",
        "f: -x / 2.0 → -x / 4.0",
        "f: -x / 2.0 → x / 2.0",
        "f: x < 0 and y → x < 0 or y",
        "f: x < 0 → x < 1",
        "f: x < 0 → x <= 0",
        "f: x, y=1 → x, y=2",
    ]
    assert list(found["f: x < 0 → x <= 0"].lines) == [3]
    found["f: x < 0 → x <= 0"].apply()
    assert ast.unparse(tree) == before.replace("x < 0", "x <= 0")


@pytest.mark.slow
def test_errors_in_the_science_are_noticed() -> None:
    """The errors in mutants.yaml, and three per module, are detected by its tests."""
    command = [sys.executable, str(mutants.__file__), "--sample", "3"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
