"""The fingerprint of the numerics changes with their computation, and with nothing else."""

import ast
from pathlib import Path

import pytest

import coopnet
from benchmarks import same_bits
from coopnet.study import numerics
from coopnet.study.numerics import MODULES, definitions, fingerprint

PACKAGE = Path(coopnet.__file__).parent

SOURCE = '''"""A module."""

import math
from collections.abc import Sequence

RATE = 0.1
"""An attribute."""


class Network:
    """A class."""

    width: int = 16
    "Another attribute."

    @property
    def area(self) -> int:
        """A function."""
        return self.width * self.width


async def wait(times: Sequence[float] = (1.0, -2.5e-3), /, *rest: int, scale: float = 2.0, **more: int) -> None:
    """Wait."""


def name(x: float, width: int = 8) -> str:
    """A name."""
    while (y := x + 1) > 3 and not math.isnan(y):
        x -= 1
    values = [v**2 for v in range(3) if v] + [*range(2)]
    match values:
        case [0, *rest] if rest:
            return f"{x:>{width}.3f} {x!r} {{}} {'a' 'b'}" f"{y=}" "end"
        case _:
            return (lambda v, /: {**v, "k": None, 1: ...})({})["k"] or b"bytes" and 1_000 and 1e400 and 2j
'''

GOLDEN = "517250b222567238ff8a7a17713300240055e1072c9da95eb708d5328d21c447"
"""The same for Python 3.11, 3.12 and 3.13."""


def edited(old: str, new: str) -> str:
    """The source with one passage replaced."""
    assert SOURCE.count(old) == 1
    return SOURCE.replace(old, new)


def test_golden_fingerprint() -> None:
    """The fingerprint does not depend on the version of Python, so a new version makes no result stale.

    If this fails under a new Python, correct `_serialise` and not the number.
    """
    assert fingerprint(SOURCE) == GOLDEN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""\n', '"""Another module, in\n\nthree lines."""\n'),
        ('"""A module."""\n', ""),
        ('"""An attribute."""', '"""Told differently."""'),
        ('    """A class."""\n', ""),
        ('    "Another attribute."\n', ""),
        ('"""A function."""', "'Told differently.'"),
        ('    """A name."""\n', "    # a comment\n"),
        ("RATE = 0.1", "RATE = 0.1  # a comment"),
        ("RATE = 0.1", "\n\nRATE   =   (0.1)"),
        ("RATE = 0.1", "RATE = 1e-1"),
        ("        x -= 1\n", "        x -= 1;\n\n"),
        ("(1.0, -2.5e-3), /", "(\n        1.0,\n        -2.5e-3,\n    ), /"),
        ('["k"]', "['k']"),
    ],
)
def test_words_and_layout_do_not_count(old: str, new: str) -> None:
    """Comments, all docstrings, blank lines, quotes and parentheses do not change the fingerprint."""
    assert fingerprint(edited(old, new)) == fingerprint(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE = None"),
        ("RATE = 0.1", "RATE = True"),
        ("self.width * self.width", "self.width + self.width"),
        ("self.width * self.width", "self.width * self.depth"),
        ("width: int = 8", "width: int = 9"),
        ("width: int = 8", "width: int"),
        ("scale: float = 2.0", "scale: float = 3.0"),
        ("1.0, -2.5e-3", "1.0, 2.5e-3"),
        ("    @property\n", ""),
        ("    @property\n", "    @staticmethod\n"),
        ("async def wait", "def wait"),
        (", /, *rest", ", *rest"),
        ("> 3 and not", "> 3 or not"),
        ("> 3 and not", ">= 3 and not"),
        ("x -= 1", "x += 1"),
        ("for v in range(3) if v", "for v in range(3)"),
        ("[*range(2)]", "[range(2)]"),
        ("if rest:", "if not rest:"),
        (">{width}.3f", ">{width}.4f"),
        ("{x!r}", "{x!s}"),
        ("{{}}", "{{ }}"),
        ('f"{y=}"', 'f"{y}"'),
        ('"k": None', '"k": 0'),
        ("**v, ", ""),
        ("1: ...", "1: None"),
        ('b"bytes"', '"bytes"'),
        ("import math", "import cmath as math"),
        ("        x -= 1\n", "        x -= 1\n        break\n"),
    ],
)
def test_every_change_of_the_computation_counts(old: str, new: str) -> None:
    """Constants, operators, defaults, decorators, kinds of argument, conditions and formats change it."""
    assert fingerprint(edited(old, new)) != fingerprint(SOURCE)


def test_where_a_definition_lies_does_not_count() -> None:
    """Moving definitions to other modules, with the imports that follow them, does not change the version."""
    one, two = "def f(x):\n    return x\n", "from coopnet.one import f\n\ndef g(x):\n    return f(x)\n"
    assert sorted(definitions(one) + definitions(two)) == sorted(definitions(one + two.partition("\n")[2]))
    assert definitions("from coopnet.one import f") == definitions("from coopnet.other.one import f")
    assert definitions("from coopnet.one import f as g") != definitions("from coopnet.one import f as h")
    assert definitions("from math import sin as f") != definitions("from math import cos as f")


def test_order_of_statements_counts() -> None:
    """Swapping two statements is another computation."""
    assert fingerprint("a = 1\nb = 2\n") != fingerprint("b = 2\na = 1\n")


def test_listed_modules_exist() -> None:
    """Each listed module exists once, in order."""
    assert [module for module in MODULES if not (PACKAGE / module).is_file()] == []
    assert sorted(set(MODULES)) == list(MODULES)


def test_source_hash_covers_every_listed_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any of them changes the hash; a change elsewhere does not."""

    def hashed() -> str:
        numerics.own_version.cache_clear()
        return numerics.source_hash()

    for module in (*MODULES, "cli.py"):
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).write_bytes((PACKAGE / module).read_bytes())
    before = hashed()
    monkeypatch.setattr(numerics, "PACKAGE", tmp_path)
    try:
        assert hashed() == before
        for module in (*MODULES, "cli.py"):
            source = (tmp_path / module).read_text(encoding="utf-8")
            (tmp_path / module).write_text(source + "\nADDED = 1\n", encoding="utf-8")
            assert (hashed() != before) == (module in MODULES), module
            (tmp_path / module).write_text(source, encoding="utf-8")
    finally:
        numerics.own_version.cache_clear()


# No module of the numerics is forgotten

HARMLESS = {
    "__init__.py": "the version, which is recorded beside the result",
    "files/errors.py": "the type of a message",
    "study/settings.py": "checks the row; the row itself, defaults filled in, is in the key",
    "study/phases.py": "names the phase of a row, and the row of its transfer, which is in the transfer's key",
    "study/messages.py": "validates input and describes its mistakes",
    "study/rows.py": "merges and scales rows; the result is in the key",
    "study/descent.py": "refuses rows",
    "study/plan.py": "computes the key, from rows already scaled and merged",
    "study/load.py": "reads files; the rows in them are in the key",
    "files/__init__.py": "reads and writes files, each of which is checked against its digest",
    "study/numerics.py": "computes the fingerprint",
    "data/__init__.py": "empty",
    "data/datasets.py": "counts and digests; the digest and the constants are in the key",
    "data/normalization.py": "constants, which are in the key",
    "networks/__init__.py": "empty",
    "runs/provenance.py": "describes code, libraries and device of a run, for its record",
    "runs/checkpoint.py": "reads and writes tensors, in files that are checked against their digests",
    "training/failures.py": "error messages",
    "training/device.py": "names the device, which is in the record",
    "runs/resume.py": "saves and loads a state unchanged",
    "training/__init__.py": "empty",
    "runs/__init__.py": "empty",
    "study/__init__.py": "names of other modules' functions",
}
"""Modules that the numerics import although no result's bits depend on them, and why."""


def imported_by(module: str) -> set[str]:
    """The modules of the package that a module imports, including their packages."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, which this test does not follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "coopnet":
                found |= files_of(name.split(".")[1:])
    return found


def files_of(parts: list[str]) -> set[str]:
    """The files that run when `coopnet.<parts>` is imported; a last part may be a name inside a module."""
    found = {"__init__.py"}
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        found |= {name for name in (f"{path}/__init__.py", f"{path}.py") if (PACKAGE / name).is_file()}
    return found


def test_no_module_of_the_numerics_is_forgotten() -> None:
    """Everything that training imports, directly or not, is fingerprinted or listed as harmless."""
    waiting, seen = ["runs/job.py"], set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += [] if module in HARMLESS else imported_by(module)
    assert seen - set(MODULES) - HARMLESS.keys() == set(), "list it in numerics.MODULES, or here with a reason"
    assert set(MODULES) - seen == set(), "listed in numerics.MODULES, but training does not use it"


def test_harmless_modules_are_not_fingerprinted() -> None:
    """A module is in one list only, and exists."""
    assert not HARMLESS.keys() & set(MODULES)
    assert [name for name in HARMLESS if not (PACKAGE / name).is_file()] == []


@pytest.mark.parametrize("name", [name for name, reason in HARMLESS.items() if reason == "empty"])
def test_empty_packages_are_empty(name: str) -> None:
    """A module that is harmless because it is empty has only a docstring."""
    assert fingerprint((PACKAGE / name).read_text(encoding="utf-8")) == fingerprint("")


def test_versions_with_the_same_bits_lead_back_to_one() -> None:
    """No version is its own ancestor, and the current source is known under the first equivalent version."""
    known = numerics.same_bits()
    assert not known.keys() & set(known.values())
    assert numerics.source_hash() == numerics.first_version(numerics.source_version(PACKAGE))


@pytest.mark.slow
def test_versions_that_are_said_to_be_the_same_train_the_same(tmp_path: Path) -> None:
    """Runs of every kind, with the current and the earlier source, have the same tensors and the same history."""
    first = numerics.source_hash()
    if numerics.own_version() == first:
        pytest.skip("this version of the numerics is not declared equal to another")
    if not same_bits.check_out(first, tmp_path):
        pytest.skip("the git history does not contain that version (a shallow clone)")
    then = same_bits.trained(tmp_path / "then" / "src", tmp_path / "old", tmp_path / "then")
    now = same_bits.trained(PACKAGE.parent, tmp_path / "new", tmp_path / "then")
    assert len(now) > 20
    assert {run: one["key"] for run, one in now.items()} == {run: one["key"] for run, one in then.items()}
    assert same_bits.differences(now, then) == []
