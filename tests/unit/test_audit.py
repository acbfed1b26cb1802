"""The audit of the dependencies: `make audit`."""

import datetime
import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
assert _spec is not None
assert _spec.loader is not None
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

HASH = "--hash=sha256:" + "0" * 64
LOCK = f"# made by hand\nleft==1.0 {HASH} \\\n    {HASH}\n    # via right\nright==2.0 ; python_version >= '3' {HASH}\n"
TODAY = datetime.date(2026, 1, 31)
KNOWN = {"name": "left", "version": "1.0", "vulns": [{"id": "X-1", "aliases": ["Y-1"], "fix_versions": ["1.1"]}]}


def test_every_line_of_the_lock_is_pinned_by_hash() -> None:
    """The lock has one version and hashes for each package, and no addresses of indexes."""
    text = (ROOT / "requirements.lock").read_text()
    assert list(audit.unpinned(text)) == []
    assert len([line for line in text.splitlines() if line[:1].isalnum()]) > 100


@pytest.mark.parametrize(
    "line",
    [
        "left==1.0",
        f"left>=1.0 {HASH}",
        f"left {HASH}",
        f"left==1.0 {HASH[:-1]}",
        "left==1.0 --hash=md5:00",
        f"left @ https://example.org/left.whl {HASH}",
        "--index-url https://example.org",
        "--extra-index-url=https://example.org",
        "-e .",
    ],
)
def test_line_that_pins_nothing_is_named(line: str) -> None:
    """A line without version or hash, or with an address, is reported; its neighbours are not."""
    assert list(audit.unpinned(LOCK)) == []
    (said,) = audit.unpinned(f"{LOCK}{line}\n")
    assert line.split()[0] in said


@pytest.mark.parametrize(
    ("license", "allowed"),
    [
        ("A", True),
        ("C", False),
        ("A OR C", True),
        ("C OR D", False),
        ("A AND B", True),
        ("A AND C", False),
        ("A; C", False),
        ("A AND (B OR C)", True),
        ("A AND (C OR D)", False),
        ("(A AND C) OR B", True),
        ("(A AND C) OR D", False),
        ("Long Name (A)", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_licences_are_joined_as_they_say(license: str, allowed: bool) -> None:
    """AND and `;` require all licences, OR one of them."""
    assert audit.permitted(license, {"A", "B"}) is allowed


def test_licence_that_is_not_on_the_list_needs_an_exception_with_a_reason() -> None:
    """An exception is valid for one package with its licence at that time, and requires a reason."""
    package = {"Name": "Left", "Version": "1.0", "License": "C"}
    policy: dict[str, Any] = {"allow": ["A"], "exceptions": {"left": {"license": "C", "reason": "why"}}}
    assert list(audit.unlicensed([package], policy)) == []
    (said,) = audit.unlicensed([package | {"License": "D"}], policy)
    assert "Left 1.0: its licence 'D'" in said
    (said,) = audit.unlicensed([package | {"Name": "leftist"}], policy)
    assert "leftist" in said
    (said,) = audit.unlicensed([], {"allow": [], "exceptions": {"left": {"license": "C", "reason": ""}}})
    assert "has no reason" in said


def test_licences_of_all_that_is_installed_are_allowed() -> None:
    """Every distribution of this environment has a licence of the policy."""
    policy = tomllib.loads((ROOT / "audit.toml").read_text())
    packages = audit.installed()
    assert {"torch", "snakemake", "dvc"} <= {package["Name"] for package in packages}
    assert list(audit.unlicensed(packages, policy["licenses"])) == []


def test_vulnerability_is_accepted_with_a_reason_until_a_day() -> None:
    """A known vulnerability is an error unless it is listed, by any of its names, with a reason and a future date."""
    (said,) = audit.vulnerable([KNOWN], [], TODAY)
    assert said == "left 1.0 has X-1; fixed in 1.1: run `make lock`"
    for name in ("X-1", "Y-1"):
        entry = {"id": name, "reason": "why", "until": TODAY}
        assert list(audit.vulnerable([KNOWN], [entry], TODAY)) == []
        (said,) = audit.vulnerable([KNOWN], [entry], TODAY + datetime.timedelta(days=1))
        assert "was accepted until 2026-01-31" in said
        assert list(audit.vulnerable([KNOWN], [entry | {"reason": ""}], TODAY))
    assert list(audit.vulnerable([KNOWN], [{"id": "X-2", "reason": "why", "until": TODAY}], TODAY))


@pytest.fixture
def service() -> Iterator[str]:
    """A local service that knows one vulnerability, in `left`, with OSV's protocol."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = asked["package"]
            event = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}
            found = {"id": "X-1", "aliases": ["Y-1"], "affected": [{"package": package, "ranges": [event]}]}
            body = json.dumps({"vulns": [found]} if package["name"] == "left" else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/query"
        running.shutdown()


def call(folder: Path, address: str, policy: str = "") -> subprocess.CompletedProcess[str]:
    """Run the audit of a small lock with a service."""
    (folder / "lock").write_text(LOCK)
    (folder / "policy").write_text((ROOT / "audit.toml").read_text() + policy)
    options = "--lock", folder / "lock", "--policy", folder / "policy", "--service", address
    return subprocess.run([sys.executable, ROOT / ".ci" / "audit.py", *options], capture_output=True, text=True)


def test_known_vulnerability_fails_the_audit(tmp_path: Path, service: str) -> None:
    """A finding gives exit code 1 and names the package; an accepted one gives 0."""
    done = call(tmp_path, service)
    assert done.returncode == 1
    assert "left 1.0 has X-1; fixed in 1.1" in done.stderr
    accepted = '\n[[vulnerabilities]]\nid = "Y-1"\nreason = "not used"\nuntil = 9999-01-01\n'
    done = call(tmp_path, service, accepted)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 packages are pinned by hash" in done.stdout


def test_no_network_is_loud(tmp_path: Path) -> None:
    """Without a service the audit says that nothing was looked up, and has its own exit code for that."""
    done = call(tmp_path, "http://127.0.0.1:9/query")
    assert done.returncode == 3
    assert "NOT CHECKED for known vulnerabilities" in done.stderr
    assert "Traceback" not in done.stderr
