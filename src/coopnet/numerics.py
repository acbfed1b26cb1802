"""The fingerprint of the source that decides a run's numbers.

It is part of every run key: when it changes, results made before are stale. Comments, docstrings and layout do not
count, so the syntax trees are hashed, by a serialisation of our own, because `ast.dump` changes between Python
versions.
"""

import ast
import functools
import hashlib
from pathlib import Path

MODULES = (
    "data/augment.py",
    "data/splits.py",
    "networks/loss.py",
    "networks/merging.py",
    "networks/network.py",
    "networks/streams.py",
    "networks/surgery.py",
    "seeding.py",
    "training/batchnorm.py",
    "training/engine.py",
    "training/gradient_ratio.py",
    "training/group.py",
    "training/job.py",
    "training/launch.py",
    "training/optimizer.py",
    "training/schedule.py",
    "training/setup.py",
    "training/trainer.py",
)
"""What a trained network's bits depend on besides parameters, data and parents."""

SAME_BITS: dict[str, str] = {
    # Steps can be replayed as CUDA graphs and shared by several processes; what makes a run fail is told by its step.
    # Also, SciPy is imported by the merge that needs it alone, and nothing that a graph cannot hold is recorded.
    "f814185081c8a186524e9f170252d93e4045eeb5f0de361a84cd3b3942c67070": (
        "476d42bd5671cb9122ce1284e2a3600c8ede677b3762c4b57151946db28003a6"
    ),
}
"""Versions of `MODULES` that compute the same bits as an earlier one: what was trained by that stays what it is.

An edit that changes no result (an error message, how work reaches a GPU) may be entered here by hand; everything else
makes results stale. `tests/test_numerics.py` trains runs of every kind with both versions and compares them.
"""


def fingerprint(source: str) -> str:
    """SHA-256 of a module's syntax tree without docstrings, in hex."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_string(statement)]
        elif isinstance(node, ast.JoinedStr):  # the parser of Python 3.12.1 adds empty parts to nested formats
            node.values = [part for part in node.values if getattr(part, "value", None) != ""]
    return hashlib.sha256(_serialise(tree).encode()).hexdigest()


def _is_string(node: ast.stmt) -> bool:
    """Whether a statement is a bare string: a docstring of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _serialise(node: object) -> str:
    """Type names and non-empty fields only: a field that a later Python adds is empty in older code."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in sorted(node._fields))
        inside = ",".join(f"{name}={_serialise(value)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return f"[{','.join(map(_serialise, node))}]"
    return repr(node)


def source_hash() -> str:
    """Version of the numerics: that of the source, or the first one that computed the same bits."""
    return first_version(own_version())


@functools.cache
def own_version() -> str:
    """Version of the numerics to the letter: of two that compute the same bits each is one of its own."""
    return source_version(Path(__file__).parent)


def source_version(package: Path) -> str:
    """SHA-256 over the fingerprints of all `MODULES` of a package, in hex."""
    prints = [f"{module}={fingerprint((package / module).read_text(encoding='utf-8'))}" for module in MODULES]
    return hashlib.sha256("\n".join(prints).encode()).hexdigest()


def first_version(version: str) -> str:
    """The first version that computed the same bits as this one."""
    while version in SAME_BITS:
        version = SAME_BITS[version]
    return version
