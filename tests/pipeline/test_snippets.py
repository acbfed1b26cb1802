"""Snippets of the pages: they run if possible, otherwise a mark gives the reason; and all commands on pages are valid.

A line above a snippet is its mark; without a mark it runs in an empty folder, after the snippets before it.

- `<!-- not run: REASON -->`
- `<!-- run by TEST -->`: another test runs it; TEST is the file of that test
- `<!-- in a checkout -->`: it runs in a checkout, after the snippets before it
- `<!-- into FILE -->`: its content is added to that file of the checkout
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from conftest import ROOT
from coopnet.cli import app

PAGES = sorted((ROOT / "docs").glob("*.md"))
ALIEN = {"pip", "docker", "git", "source", "mkdir", "tar", "cd"}
"""Programs on the pages that are not part of this project."""


class Snippet(NamedTuple):
    """A block of a page, and the mark above it."""

    mark: str
    kind: str
    code: str


def snippets(page: Path) -> list[Snippet]:
    """All blocks of a page in Python, shell and YAML."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^(?:<!-- ([^\n]*) -->\n)?```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(found) == len(re.findall(r"^```\w", text, re.MULTILINE)), f"{page.name} has a block that is not seen"
    return [Snippet(*one) for one in found]


def runnable(page: Path) -> list[Snippet]:
    """The snippets that run in an empty folder."""
    return [one for one in snippets(page) if not one.mark and one.kind in ("python", "sh")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_is_run_or_says_why_not(page: Path) -> None:
    """Each mark is one of those above; the test named for a snippet exists and reads that page."""
    for one in snippets(page):
        known = re.fullmatch(r"not run: \S.{10,}|run by (tests/\S+\.py)|in a checkout|into \S+", one.mark)
        assert known or not one.mark, f"{page.name}: {one.mark!r} is no mark"
        if known and known[1]:
            assert page.name in (ROOT / known[1]).read_text(encoding="utf-8")
        elif one.mark.startswith("not run"):
            for test in re.findall(r"tests/\S+\.py", one.mark):
                assert (ROOT / test).is_file(), test
        elif one.mark.startswith("in"):
            assert page.stem == "first_study", "test_first_study runs that page alone"


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    """Snippets run in order: Python in one process, as a reader would type it; commands as they are."""
    script = ["import contextlib, sys", "from coopnet.cli import main"]
    for one in runnable(page):
        if one.kind == "python":
            script.append(one.code)
            continue
        for line in one.code.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "coopnet"
            script.append(f"sys.argv = ['coopnet', *{arguments!r}]\nwith contextlib.suppress(SystemExit): main()")
            script.append("sys.argv = ['-']")
    (tmp_path / "page.py").write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "coopnet: error" not in done.stderr
    accuracies = [float(value) for value in re.findall(r"^\d branches: (0\.\d+|1\.0+)$", done.stdout, re.MULTILINE)]
    assert len(accuracies) == (2 if page.stem == "library" else 0)
    assert all(accuracy > 0.8 for accuracy in accuracies), accuracies


def test_python_of_the_readme_runs(tmp_path: Path) -> None:
    """The example of the library in the README runs."""
    code = "\n".join(one.code for one in snippets(ROOT / "README.md") if one.kind == "python")
    assert "coopnet.grow(" in code
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


# Commands ------------------------------------------------------------------------------------------------------------


def lines(page: Path) -> list[list[str]]:
    """Every command in the shell snippets of a page, as words."""
    found = []
    for one in snippets(page):
        if one.kind != "sh":
            continue
        for line in one.code.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
                    words.pop(0)
                found += [words] if words else []
    return found


def parse(words: list[str]) -> None:
    """Let a program parse a command without running it."""
    program, *arguments = words
    if program == "coopnet":
        _parse(typer.main.get_command(app), arguments)
    elif program == "snakemake":
        from snakemake.cli import get_argument_parser

        get_argument_parser().parse_args(arguments)
    elif program == "dvc":
        from dvc.cli import parse_args

        parse_args(arguments)
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert [one for one in targets if not re.search(rf"^{one}:", MAKEFILE, re.MULTILINE)] == []
    elif program in ("python", "python3"):
        assert arguments[0] == "-m"
        assert (ROOT / (arguments[1].replace(".", "/") + ".py")).is_file(), arguments[1]
    else:
        assert program in ALIEN, program


def _parse(command: Any, arguments: list[str]) -> None:
    context = command.make_context(command.name, list(arguments))
    if hasattr(command, "commands"):
        name, *rest = [*context._protected_args, *context.args]
        assert name in command.commands, f"there is no command {name}"
        _parse(command.commands[name], rest)


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_commands_are_known(page: Path) -> None:
    """Each program accepts its commands on the pages."""
    for words in lines(page):
        try:
            parse(words)
        except SystemExit as stopped:  # raised by argparse
            raise AssertionError(f"{page.name}: {shlex.join(words)}") from stopped
        except Exception as error:
            raise AssertionError(f"{page.name}: {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_commands_in_sentences_exist(page: Path) -> None:
    """Each command of `coopnet` and each target of make that a sentence names exists."""
    text = page.read_text(encoding="utf-8")
    commands = {"runs gc", *typer.main.get_command(app).commands}  # type: ignore[attr-defined]
    for name in re.findall(r"`coopnet (\w+)", text):
        assert name in commands or name == "COMMAND", f"coopnet {name}"
    for target in re.findall(r"`make (?:\w+=\S+ )*([a-z][a-z-]*)", text):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"make {target}"


# The first study -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_first_study(tmp_path: Path) -> None:
    """docs/first_study.md runs from its first line to a report with the new row, in a separate checkout."""
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("results/", "reports/", "tests/", "requirements.lock")):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = 0
    for one in snippets(ROOT / "docs" / "first_study.md"):
        if one.mark.startswith("into "):
            target = checkout / one.mark.removeprefix("into ")
            before = target.read_text(encoding="utf-8") if target.is_file() else ""
            target.write_text(before + one.code, encoding="utf-8")
        else:
            assert one.mark == "in a checkout"
            said = subprocess.run(
                ["bash", "-ec", one.code], cwd=checkout, env=environment, capture_output=True, text=True
            )
            assert said.returncode == 0, said.stdout[-2000:] + said.stderr[-2000:]
            done += 1
    assert done == 2
    page = (checkout / "reports" / "first" / "index.html").read_text(encoding="utf-8")
    assert "one3_to_5_split_loud" in page
