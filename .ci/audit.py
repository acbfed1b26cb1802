"""Check the dependencies: hashes and licences offline, known vulnerabilities by asking a service.

Exit codes: 0 all is well; 1 something is wrong, in one line each; 3 all that could be checked is well, but the
service of known vulnerabilities cannot be reached, so nothing is known of them.
"""

import argparse
import datetime
import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOOLS = Path(sys.executable).parent
UNREACHABLE = 3

Vulnerable = Mapping[str, Any]
"""A dependency as pip-audit reports it: `name`, `version`, and `vulns` or `skip_reason`."""


def unpinned(lock: str) -> Iterator[str]:
    """Whatever in a lock is not one version with hashes, or names where to get it."""
    logical = re.sub(r"\\\n", " ", lock)
    for line in filter(None, (line.partition(" #")[0].strip() for line in logical.splitlines())):
        if line.startswith("#"):
            continue
        name = line.split()[0]
        if line.startswith("-") or "://" in line:
            yield f"{name}: the lock must not say where packages come from"
        elif not re.match(r"[\w.\-]+(\[[\w,.\-]+\])?==[^\s;]+(\s*;.*?)?(\s+--hash=sha256:[0-9a-f]{64})+$", line):
            yield f"{name}: it is not pinned to one version with a SHA-256 hash; run `make lock`"


def installed() -> list[dict[str, str]]:
    """Name, version and licence of every distribution that is installed."""
    said = subprocess.run(
        [TOOLS / "pip-licenses", "--format=json", "--from=mixed", "--with-system", f"--python={sys.executable}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(said.stdout))


def unlicensed(packages: list[dict[str, str]], policy: Mapping[str, Any]) -> Iterator[str]:
    """Packages whose licence is not on the list, and exceptions without a reason."""
    for package in packages:
        name, license = package["Name"], package["License"]
        if permitted(license, set(policy["allow"])):
            continue
        fitting = [
            pattern
            for pattern, exception in policy["exceptions"].items()
            if fnmatch.fnmatch(name.lower(), pattern.lower()) and exception["license"] == license
        ]
        if not fitting:
            yield f"{name} {package['Version']}: its licence {license!r} is not in audit.toml; allow it with a reason"
    for pattern, exception in policy["exceptions"].items():
        if not exception.get("reason"):
            yield f"audit.toml: the exception for {pattern} has no reason"


def permitted(license: str, allowed: set[str]) -> bool:
    """Whether a licence as a package states it is allowed: all of what AND or `;` joins, any of what OR joins."""
    inner = re.search(r"\(([^()]* (?:AND|OR) [^()]*)\)", license)  # not the brackets of `ISC License (ISCL)`
    if inner:
        verdict = "yes" if permitted(inner[1], allowed) else "no"
        return permitted(license.replace(inner[0], verdict), allowed | {"yes"})
    if license in allowed:
        return True
    if re.search(r" OR ", license):
        return any(permitted(one, allowed) for one in license.split(" OR "))
    parts = re.split(r" AND |; ", license)
    return len(parts) > 1 and all(permitted(one, allowed) for one in parts)


def ask(lock: Path, service: str | None) -> tuple[list[Vulnerable], str]:
    """What is known of the lock's packages, and why nothing is known of others (empty: there are none)."""
    command = [TOOLS / "pip-audit", "--requirement", lock, "--disable-pip", "--require-hashes", "--format=json"]
    command += ["--progress-spinner=off", "--timeout=10"]
    command += ["--vulnerability-service=osv", f"--osv-url={service}"] if service else []
    said = subprocess.run(command, capture_output=True, text=True)
    try:
        packages: list[Vulnerable] = json.loads(said.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], (said.stderr.strip().splitlines() or ["it says nothing"])[-1]
    unknown = [package for package in packages if "skip_reason" in package]
    why = f"{len(unknown)} of {len(packages)} packages: {unknown[0]['skip_reason']}" if unknown else ""
    return [package for package in packages if "vulns" in package], why


def vulnerable(packages: list[Vulnerable], accepted: list[Mapping[str, Any]], today: datetime.date) -> Iterator[str]:
    """Known vulnerabilities that are not accepted, or no longer."""
    for package in packages:
        for found in package["vulns"]:
            names = {found["id"], *found.get("aliases", [])}
            fitting = [entry for entry in accepted if entry["id"] in names]
            if any(entry["until"] >= today and entry["reason"] for entry in fitting):
                continue
            fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
            late = f", and was accepted until {fitting[0]['until']}" if fitting else ""
            yield f"{package['name']} {package['version']} has {found['id']}{late}; fixed in {fixed}: run `make lock`"


def main() -> int:
    """Check everything, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--policy", type=Path, default=ROOT / "audit.toml")
    parser.add_argument("--service", help="address of another service of vulnerabilities that speaks OSV's protocol")
    options = parser.parse_args()
    policy = tomllib.loads(options.policy.read_text())
    wrong = [*unpinned(options.lock.read_text()), *unlicensed(installed(), policy["licenses"])]
    known, why = ask(options.lock, options.service)
    wrong += vulnerable(known, policy.get("vulnerabilities", []), datetime.datetime.now(datetime.UTC).date())
    for line in wrong:
        print(f"audit: error: {line}", file=sys.stderr)
    if why:
        print(f"audit: NOT CHECKED for known vulnerabilities, the service gives no answer: {why}", file=sys.stderr)
        print("audit: run this again where there is a network, or with --service ADDRESS", file=sys.stderr)
    if wrong:
        return 1
    if why:
        return UNREACHABLE
    print(f"audit: {len(known)} packages are pinned by hash, licensed and without known vulnerabilities")
    return 0


if __name__ == "__main__":
    sys.exit(main())
