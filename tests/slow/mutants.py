"""Mutation testing: the science modules with one small error each, and the tests that must detect it.

`python tests/slow/mutants.py [module …]` (`make mutants`) tries every mutant of the modules in mutants.yaml, and fails
if one survives that is not listed there with a reason. The source files are not changed: each mutant lives in its own
process, forked after the libraries were imported. A first run without an error records which test executes which line.
So a mutant meets the tests of its own line first, the fastest of them first. Do not edit source and tests meanwhile: a
test that is not found counts as failed.

The maintained tools do not fit: mutmut 3 skips functions with decorators, and here much of the mathematics is under
`@torch.no_grad()`; cosmic-ray starts Python, and so imports PyTorch, again for each mutant.
"""

import argparse
import ast
import gc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "coopnet"
LIMIT = 1800
"""Seconds of CPU for the run without an error; a mutant has five times its duration, and a minute."""
BROKEN = 3
"""The exit code of pytest if not a test failed but pytest itself."""
Place = tuple[ast.AST, str, int | None]
LISTED: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

OPERATORS = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}
OPERATORS |= {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.BitAnd: ast.BitOr, ast.And: ast.Or}
OPERATORS |= {new: old for old, new in OPERATORS.items()}
OPERATORS |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult}
NAMES = {"min": "max", "any": "all", "argmax": "argmin", "floor": "ceil", "zeros_": "ones_", "zeros": "ones"}
NAMES |= {new: old for old, new in NAMES.items()} | {"reversed": "list", "sorted": "list", "mean": "sum"}
SILENT = (ast.Raise, ast.Assert, ast.JoinedStr)
"""Not mutated: texts for people, and assertions."""
SMALL = (ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp, ast.Slice, ast.Tuple)
"""Shown with their parents, because they are unclear on their own."""


class Mutant(NamedTuple):
    """One error: `new` is in `parent.field`, at `index` if that is a list. Without a place, `tree` has everything."""

    name: str  # function, before, after: no line, since lines move
    tree: ast.Module
    lines: range = range(0)  # of the statement, or of its head
    place: Place | None = None
    new: ast.AST | None = None

    def apply(self) -> None:
        """Make the error, in a separate process."""
        if self.place and self.new:
            put(self.place, self.new)


def head(path: Sequence[ast.AST]) -> int:
    """The position in a path of the expression or simple statement that shows what its last node does."""
    place = len(path) - 1
    while isinstance(path[place], SMALL) and not hasattr(path[place - 1], "body"):
        place -= 1
    return place


def lines(path: Sequence[ast.AST]) -> range:
    """Lines of the statement that contains a node; for one with a body, those of its head."""
    statement: Any = next(node for node in reversed(path) if isinstance(node, ast.stmt))
    body = getattr(statement, "body", None)
    return range(statement.lineno, max(body[0].lineno, statement.lineno + 1) if body else statement.end_lineno + 1)


def put(place: Place, node: ast.AST) -> None:
    """Put a node into its place in the tree."""
    parent, field, index = place
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def errors(node: ast.AST) -> Iterator[ast.AST]:
    """Replacements for a node."""
    match node:
        case ast.Compare(left, [operator], others) if type(operator) in OPERATORS:
            yield ast.Compare(left, [OPERATORS[type(operator)]()], others)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(OPERATORS[type(operator)](), values)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(value * 2 or 1.0)
        case ast.IfExp(test, body, other):
            yield ast.IfExp(test, other, body)
        case ast.AugAssign(target, operator, value):
            yield ast.Pass()
            if type(operator) in OPERATORS:
                yield ast.AugAssign(target, OPERATORS[type(operator)](), value)
        case ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Call(ast.Name("derive")):
            yield ast.Constant(0)
        case ast.Call(function, [first, second, *others], keywords) if ast.dump(first) != ast.dump(second):
            yield ast.Call(function, [second, first, *others], keywords)
        case ast.If(ast.Call() | ast.Name() | ast.Attribute() as test, body, other):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, other)
        case ast.comprehension(target, source, [test], asynchronous):
            yield ast.comprehension(target, source, [ast.UnaryOp(ast.Not(), test)], asynchronous)
        case ast.Name(name) if name in NAMES:
            yield ast.Name(NAMES[name], ast.Load())
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.Attribute(value, NAMES[name], ast.Load())


def mutants(tree: ast.Module) -> list[Mutant]:
    """All mutants of a module."""
    found: list[Mutant] = []
    count: Counter[str] = Counter()

    def visit(path: tuple[ast.AST, ...], scope: str) -> None:
        node = path[-1]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}".lstrip(".")
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or isinstance(child, SILENT):
                    continue
                place, below = (node, field, index), (*path, child)
                for new in errors(child):
                    put(place, ast.fix_missing_locations(ast.copy_location(new, child)))
                    after = said((*path, new)[head(below)])
                    put(place, child)
                    name = f"{scope}: {said(below[head(below)])} → {after}"
                    count[name] += 1
                    name += f" ({count[name]})" if count[name] > 1 else ""
                    found.append(Mutant(name, tree, lines(below), place, new))
                visit(below, scope)

    visit((tree,), "")
    return found


def said(node: ast.AST) -> str:
    """A node as source; only the head if it has a body."""
    return ast.unparse(node).strip().partition("\n")[0]


# Running ------------------------------------------------------------------------------------------------------------


class Loader(importlib.machinery.SourceFileLoader):
    """Imports one module from a tree instead of its file."""

    def __init__(self, module: str, tree: ast.Module):
        super().__init__(f"coopnet.{module.removesuffix('.py').replace('/', '.')}", str(SOURCE / module))
        self.tree = tree

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Only for that module."""
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        """The code that the import executes."""
        return compile(self.tree, self.path, "exec")


class Recorder:
    """A pytest plugin that records which lines of a file each test executes, and the test's duration."""

    def __init__(self, path: Path):
        self.path, self.lines = str(path), set[int]()
        self.tests: dict[str, tuple[float, list[int]]] = {}

    def trace(self, frame: Any, *_: object) -> Any:
        """Called by Python on each line."""
        if frame.f_code.co_filename != self.path:
            return None
        self.lines.add(frame.f_lineno)
        return self.trace

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Around each test, with its fixtures."""
        self.lines, began = set(), time.process_time()
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests[item.nodeid] = time.process_time() - began, sorted(self.lines)


def forked(
    module: str,
    mutant: Mutant,
    groups: list[list[str]],
    where: str,
    limit: int = LIMIT,
    recorder: Recorder | None = None,
) -> int:
    """Run tests of a mutant, group by group until one fails, in a new process; returns its id."""
    if pid := os.fork():
        return pid
    code = BROKEN
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))  # an endless loop is detected
        os.chdir(ROOT)
        mutant.apply()
        sys.path.insert(0, str(SOURCE.parent))
        sys.meta_path.insert(0, Loader(module, mutant.tree))  # type: ignore[arg-type]
        sys.dont_write_bytecode, sys.pycache_prefix = False, f"{where}/bytecode"
        quick = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutants", database=None, derandomize=True, phases=quick)
        hypothesis.settings.load_profile("mutants")
        options = ["-x", "-p", "no:cacheprovider", "-p", "no:unraisableexception", f"--basetemp={where}/{os.getpid()}"]
        for group in filter(None, groups):
            code = int(pytest.main([*options, *group], [recorder] if recorder else []))
            if code:
                break
        if recorder:
            places = {name: getattr(each, "__file__", None) or "" for name, each in sys.modules.items()}
            libraries = [name for name, place in places.items() if "site-packages" in place]
            Path(where, "recorded").write_text(json.dumps({"tests": recorder.tests, "libraries": libraries}))
    finally:
        os._exit(code)


def recorded(module: str, files: list[str], where: str) -> list[tuple[float, str, set[int]]]:
    """Seconds, name and executed lines of each test, fastest first; the used libraries are imported.

    Raises:
        SystemExit: a test fails without an error.
    """
    path = SOURCE / module
    pid = forked(module, Mutant("", ast.parse(path.read_bytes())), [files], where, recorder=Recorder(path))
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"{module}: its tests fail without any error in it: {' '.join(files)}")
    content = json.loads(Path(where, "recorded").read_text())
    for name in content["libraries"]:
        with suppress(ImportError):
            importlib.import_module(name)
    return sorted((seconds, test, set(on)) for test, (seconds, on) in content["tests"].items())


def survivors(module: str, chosen: Sequence[Mutant], files: list[str], jobs: int) -> list[str]:
    """Names of the mutants of a module that no test of `files` detects."""
    with tempfile.TemporaryDirectory() as where:
        tests = recorded(module, files, where)
        gc.freeze()  # imported objects are no garbage, and a garbage collection would copy all of them
        limit = 60 + 5 * round(sum(seconds for seconds, _, _ in tests))
        queue, running, found = list(chosen), dict[int, Mutant](), list[str]()
        while queue or running:
            if queue and len(running) < jobs:
                mutant = queue.pop(0)
                near = [test for _, test, on in tests if on.intersection(mutant.lines)]
                rest = [test for _, test, _ in tests if test not in near]
                running[forked(module, mutant, [near, rest], where, limit)] = mutant
                continue
            pid, status = os.wait()
            mutant = running.pop(pid)
            noticed = os.waitstatus_to_exitcode(status) not in (0, BROKEN)
            found += [] if noticed else [mutant.name]
            print(f"{'noticed ' if noticed else 'survived'}  {module}  {mutant.name}", flush=True)
    return found


def by_hand(error: dict[str, Any]) -> Mutant:
    """An error that is written out in mutants.yaml.

    Raises:
        SystemExit: the source has changed, so the error must be written again.
    """
    source = (SOURCE / error["module"]).read_text(encoding="utf-8")
    if source.count(error["before"]) != 1:
        raise SystemExit(f"mutants.yaml: {error['module']} does not have exactly one {error['before']!r}")
    return Mutant(error["name"], ast.parse(source.replace(error["before"], error["after"])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants; returns 1 if one survives without a reason."""
    parser = argparse.ArgumentParser(description="Mutate the science modules, and show which mutants no test notices.")
    parser.add_argument("modules", nargs="*", metavar="module", help="networks/loss.py …; all by default")
    parser.add_argument("--sample", type=int, help="so many mutants of each module, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    options, left = parser.parse_args(arguments), list[str]()
    for module in options.modules or LISTED["modules"]:
        entry, everyone = LISTED["modules"][module], mutants(ast.parse((SOURCE / module).read_bytes()))
        reasons = entry.get("survivors", {})
        if gone := reasons.keys() - {mutant.name for mutant in everyone}:
            raise SystemExit(f"mutants.yaml: {module} has no such mutant any more: {', '.join(sorted(gone))}")
        chosen = [mutant for mutant in everyone if mutant.name not in reasons]
        if options.sample is not None:
            chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
        left += [f"{module}  {name}" for name in survivors(module, chosen, entry["tests"], options.jobs)]
    for error in [] if options.modules else LISTED["by_hand"]:
        left += survivors(error["module"], [by_hand(error)], error["tests"], options.jobs)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(*["", *left, f"{len(left)} survived without a reason in mutants.yaml"], sep="\n")
    print(f"{seconds.ru_utime + seconds.ru_stime:.0f} s of CPU in all processes")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
