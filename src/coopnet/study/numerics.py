"""The fingerprint of the source that decides a run's numbers.

It is part of every run key: when it changes, earlier results are stale. Comments, docstrings, layout and the module
of a definition do not count. The syntax tree of each definition is hashed, with our own serialisation, because
`ast.dump` changes between Python versions.
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
    "networks/kernels.py",
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
"""The modules that determine a trained network's bits, besides parameters, data and parents."""

LOCK = "numerics.json"
"""File of versions of the numerics that compute the same bits as an earlier one: version → that first version.

`make same-bits` trains runs of every kind with this version and with the first, compares every bit, and only then
enters this version. Results of the earlier version stay valid.
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
    """Whether a statement is a bare string: the docstring of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _serialise(node: object) -> str:
    """Serialise type names and non-empty fields only: fields added by a later Python are empty in older code."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in sorted(node._fields))
        inside = ",".join(f"{name}={_serialise(value)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return f"[{','.join(map(_serialise, node))}]"
    return repr(node)


@functools.cache
def definitions(source: str) -> list[str]:
    """Fingerprints of a module's top-level statements, in hex.

    Imports from this package are left out, because they say where a definition is and not what it computes. An
    import that renames is kept.
    """
    statements = [node for node in ast.parse(source).body if not (_is_string(node) or _is_own(node))]
    return [_fingerprint(ast.Module(body=[node], type_ignores=[])) for node in statements]


def _is_own(node: ast.stmt) -> bool:
    """Whether a statement imports from this package without renaming."""
    own = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "coopnet"
    return own and all(alias.asname is None for alias in node.names)  # type: ignore[attr-defined]


def source_hash() -> str:
    """Version of the numerics: the first one that computes the same bits as this source."""
    return first_version(own_version())


@functools.cache
def own_version() -> str:
    """Version of exactly this source, even where an earlier version computes the same bits."""
    return source_version(PACKAGE)


def source_version(package: Path) -> str:
    """SHA-256 over all definitions in the `MODULES` of a package, in hex, regardless of their module."""
    found = [one for module in MODULES for one in definitions((package / module).read_text(encoding="utf-8"))]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


@functools.cache
def same_bits() -> dict[str, str]:
    """Each version that computes the bits of an earlier one, with the first such version."""
    content: dict[str, str] = json.loads(Path(__file__).with_name(LOCK).read_text(encoding="utf-8"))
    return content


def first_version(version: str) -> str:
    """The first version that computes the same bits as this one."""
    return same_bits().get(version, version)
