"""The fingerprint of the source that decides a run's numbers.

It is part of every run key: when it changes, results made before are stale. Comments, docstrings and layout do not
count, and neither does where a definition lies: syntax trees of single definitions are hashed, by a serialisation of
our own, because `ast.dump` changes between Python versions.
"""

import ast
import functools
import hashlib
import json
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

MODULES = (
    "data/augment.py",
    "data/seeding.py",
    "data/splits.py",
    "networks/backbone.py",
    "networks/loss.py",
    "networks/merge.py",
    "networks/network.py",
    "networks/planned.py",
    "networks/streams.py",
    "networks/transfer.py",
    "runs/job.py",
    "runs/setup.py",
    "training/engine.py",
    "training/gradient_ratio.py",
    "training/graph.py",
    "training/learner.py",
    "training/objective.py",
    "training/optimizer.py",
    "training/schedule.py",
    "training/trainer.py",
)
"""What a trained network's bits depend on besides parameters, data and parents."""

LOCK = "numerics.json"
"""Which versions of the numerics compute the bits of an earlier one: version → the first that computed them.

`make same-bits` trains runs of every kind with this version and with the first, compares every bit, and only then
enters this version. What was trained by the one stays what it is under the other.
"""


def fingerprint(source: str) -> str:
    """SHA-256 of a module's syntax tree without docstrings, in hex."""
    return _fingerprint(ast.parse(source))


def _fingerprint(tree: ast.Module) -> str:
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


def definitions(source: str) -> list[str]:
    """Fingerprints of a module's top-level statements, in hex.

    Imports from this package are left out, because they say where a definition lies and not what it computes; one
    that renames what it imports is kept.
    """
    statements = [node for node in ast.parse(source).body if not (_is_string(node) or _is_own(node))]
    return [_fingerprint(ast.Module(body=[node], type_ignores=[])) for node in statements]


def _is_own(node: ast.stmt) -> bool:
    """Whether a statement imports from this package and renames nothing."""
    own = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "coopnet"
    return own and all(alias.asname is None for alias in node.names)  # type: ignore[attr-defined]


def source_hash() -> str:
    """Version of the numerics: that of the source, or the first one that computed the same bits."""
    return first_version(own_version())


@functools.cache
def own_version() -> str:
    """Version of the numerics to the letter: of two that compute the same bits each is one of its own."""
    return source_version(PACKAGE)


def source_version(package: Path) -> str:
    """SHA-256 over all definitions of the `MODULES` of a package, in hex, whichever module has which."""
    found = [one for module in MODULES for one in definitions((package / module).read_text(encoding="utf-8"))]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


@functools.cache
def same_bits() -> dict[str, str]:
    """The versions that compute the bits of an earlier one, and the first that computed them."""
    content: dict[str, str] = json.loads(Path(__file__).with_name(LOCK).read_text(encoding="utf-8"))
    return content


def first_version(version: str) -> str:
    """The first version that computed the same bits as this one."""
    return same_bits().get(version, version)
