"""Bundles for a machine where nothing can be installed, and the results that come back from it.

    python -m benchmarks.bundle take --data FOLDER --out build/gpu
    python -m benchmarks.bundle bring FOLDER

`take` makes tar files that are small enough to be copied one at a time: source, missing wheels, the Parquet shards of
CIFAR-100, and unfinished runs of earlier calls. `bring` unpacks the results into this checkout and its run store.
Both need only Python's standard library and pip; `take` also uses git.
"""

import argparse
import gzip
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = ("src", "benchmarks", "tests", "params.yaml", "studies", "pyproject.toml")
"""The parts of the checkout that are needed."""

WHEELS = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection")
"""Packages that are missing on the machine."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LARGE = ("logits.safetensors", "model.safetensors", "optimizer.safetensors")
"""Files of a run that are not copied as results, because the run store contains them."""

COMMIT = "COMMIT"
"""A file with the commit of the source, for provenance without git."""

MIB = 2**20
PART = 15 * MIB
"""Bytes per file that is brought back."""
PARTS = 4
"""Most files that are brought back: 64 MiB in all, with the log and `COUNT`."""

PREFIX = "results.tar.gz."
COUNT = "results.parts"
"""A file with the number of these files, written last."""


class Item(NamedTuple):
    """A file, and its name in a bundle."""

    path: Path
    name: str

    @property
    def size(self) -> int:
        """Bytes it takes in a tar file."""
        return 1024 + -(-self.path.stat().st_size // 512) * 512


# To the machine


def source(commit: Path) -> list[Item]:
    """The committed source, and the file that names its commit, which is written to `commit`.

    Raises:
        SystemExit: the checkout has uncommitted changes in these files.
    """
    changed = git("status", "--porcelain", "--", *SOURCE)
    if changed:
        sys.exit(f"error: commit these first, so that results can name the source that made them:\n{changed}")
    commit.write_text(git("rev-parse", "HEAD") + "\n")
    listed = git("ls-files", "--", *SOURCE).splitlines()
    return [Item(ROOT / name, name) for name in listed] + [Item(commit, COMMIT)]


def git(*arguments: str) -> str:
    """The output of a git command in the checkout."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def wheels(folder: Path, python: str) -> list[Item]:
    """The missing packages, in the versions installed here, as wheels for that Python on x86-64 Linux."""
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python]
    command += ["--implementation", "cp", *platforms, "--dest", str(folder), *wanted]
    subprocess.run([sys.executable, "-m", *command], check=True)
    return [Item(path, f"wheels/{path.name}") for path in sorted(folder.glob("*.whl"))]


def earlier(study: str, store: Path) -> list[Item]:
    """The local files of a study: small results, unfinished state, and the finished runs that others start from."""
    results = ROOT / "checkpoints" / study
    items = [Item(p, p.relative_to(ROOT).as_posix()) for p in every_file(results) if p.name not in LARGE]
    items += [Item(p, f"store/{p.relative_to(store)}") for p in every_file(store / "unfinished")]
    for key in needed(study):
        items += [Item(p, f"store/{p.relative_to(store)}") for p in every_file(store / "runs" / key)]
    return items


def needed(study: str) -> list[str]:
    """Keys of the parents of runs that part B would make and that are not done yet."""
    from benchmarks.gpu import done, in_order_of_worth
    from coopnet import study as studies

    plan = studies.load(ROOT, study)
    due = [run for run in in_order_of_worth(plan) if not done(plan, run)]
    return sorted({source.key for run in due for source in run.sources if done(plan, source)})


def every_file(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted; none if the folder does not exist."""
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def packed(items: Iterable[Item], limit: int) -> list[list[Item]]:
    """Distribute items, in order, over bundles of at most `limit` bytes; a full bundle is followed by a new one.

    Raises:
        SystemExit: a single item is larger than the limit.
    """
    bundles: list[list[Item]] = [[]]
    room = limit - 10_240  # the end of a tar file
    left = room
    for item in items:
        if item.size > room:
            sys.exit(f"error: {item.path} alone is larger than {limit / MIB:.0f} MiB")
        if item.size > left:
            bundles.append([])
            left = room
        bundles[-1].append(item)
        left -= item.size
    return bundles


# Results


class Split(io.RawIOBase):
    """A writable file that is cut into parts: `<folder>/<prefix>00`, `01` and so on."""

    def __init__(self, folder: Path, size: int = PART):
        self.folder, self.size, self.paths, self.part = folder, size, list[Path](), io.BytesIO()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        """Write to the current part, and begin a new one when it is full."""
        rest = memoryview(data)
        while len(rest):
            room = self.size - self.part.tell()
            self.part.write(rest[:room])
            rest = rest[room:]
            if self.part.tell() == self.size:
                self.flush_part()
        return len(data)

    def flush_part(self) -> None:
        """Write the current part to disk and begin the next."""
        if self.part.tell():
            path = self.folder / f"{PREFIX}{len(self.paths):02}"
            path.write_bytes(self.part.getvalue())
            self.paths.append(path)
            self.part = io.BytesIO()


def send_back(out: Path, groups: Iterable[Sequence[Item]], part: int = PART, parts: int = PARTS) -> list[str]:
    """Pack groups of files, most important first, into at most `parts` files of at most `part` bytes.

    The files of an earlier call are replaced once all new ones are written, so a process that is killed meanwhile loses
    nothing.

    Returns:
        A line for each group that did not fit; a group is packed whole or not at all.
    """
    out.mkdir(parents=True, exist_ok=True)
    left, missing = part * parts - 65_536, []
    with tempfile.TemporaryDirectory() as folder:
        split = Split(Path(folder), part)
        # Level 1 is enough, because weights hardly compress.
        with (
            gzip.GzipFile(fileobj=split, mode="wb", compresslevel=1) as zipped,
            tarfile.open(None, "w|", zipped) as tar,
        ):
            for group in groups:
                size = sum(item.size for item in group)
                if size > left:
                    others = len(group) - 1
                    missing.append(f"{group[0].name} and {others} other files ({size / MIB:.0f} MiB) do not fit")
                    continue
                left -= size
                for item in group:
                    tar.add(item.path, item.name, recursive=False)
        split.flush_part()
        for old in [out / COUNT, *out.glob(f"{PREFIX}*")]:
            old.unlink(missing_ok=True)
        for path in split.paths:
            shutil.move(path, out / path.name)
    (out / COUNT).write_text(f"{len(split.paths)}\n")
    return missing


def bring_back(folder: Path, root: Path, store: Path) -> list[str]:
    """Unpack results: `store/` into the run store, everything else into the checkout.

    Raises:
        SystemExit: there are no results, or a part is missing.
    """
    paths, count = sorted(folder.glob(f"{PREFIX}*")), folder / COUNT
    wanted, found = int(count.read_text()) if count.is_file() else 0, [path.name for path in paths]
    if not wanted or found != [f"{PREFIX}{i:02}" for i in range(wanted)]:
        sys.exit(f"error: {folder} does not have {COUNT} and all parts that it counts, {PREFIX}00 …, only {found}")
    names = []
    whole = io.BytesIO(b"".join(path.read_bytes() for path in paths))
    with tarfile.open(fileobj=whole, mode="r:gz") as tar:
        for member in tar:
            place = root
            names.append(member.name)
            if member.name.startswith("store/"):
                place, member.name = store, member.name.removeprefix("store/")
            tar.extract(member, place, filter="data")
    return names


def unzip_wheels(root: Path) -> Path:
    """Unpack the wheels of a bundle to where Python can import them; wheels of pure files need no installer."""
    site = root / "site"
    for wheel in sorted((root / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as files:
            files.extractall(site)
    return site


# Commands


def take(data: Path, out: Path, study: str, limit: float, python: str) -> None:
    """Make the bundles and print their sizes.

    Args:
        data: folder of the Parquet shards of CIFAR-100.
        out: folder for the bundles.
        study: its local files are included.
        limit: MiB per bundle.
        python: version of the machine's Python.
    """
    from coopnet.runs import store

    shards = sorted(data.glob("*.parquet"))
    if {path.name.split("-")[0] for path in shards} != {"train", "test"}:
        sys.exit(f"error: {data} must have train-*.parquet and test-*.parquet, and no other Parquet files")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("bundle*.tar"):
        old.unlink()
    items = source(out / COMMIT) + wheels(out / "wheels", python)
    items += [Item(path, f"shards/{path.name}") for path in shards]
    items += earlier(study, store.default_place(ROOT))
    for number, bundle in enumerate(packed(items, int(limit * MIB)), 1):
        path = out / f"bundle{number}.tar"
        with tarfile.open(path, "w") as tar:
            for item in bundle:
                tar.add(item.path, item.name, recursive=False)
        kinds = sorted({item.name.split("/")[0] for item in bundle})
        print(f"{path}: {path.stat().st_size / MIB:.1f} MiB, {len(bundle)} files: {', '.join(kinds)}")


def bring(folder: Path) -> None:
    """Unpack results into this checkout and its run store."""
    from coopnet.runs import store

    for name in bring_back(folder, ROOT, store.default_place(ROOT)):
        print(name)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bundle", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    taking = commands.add_parser("take", help="make the bundles and print their sizes")
    taking.add_argument("--data", type=Path, required=True, help="folder of the Parquet shards of CIFAR-100")
    taking.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for the bundles (%(default)s)")
    taking.add_argument("--study", default="full", help="its local files are included (%(default)s)")
    taking.add_argument("--limit", type=float, default=50, help="MiB per bundle (%(default)s)")
    taking.add_argument("--python", default="3.12", help="version of the machine's Python (%(default)s)")
    taking.set_defaults(command=take)
    bringing = commands.add_parser("bring", help="unpack results into this checkout and its run store")
    bringing.add_argument("folder", type=Path)
    bringing.set_defaults(command=bring)
    arguments = vars(parser.parse_args())
    arguments.pop("command")(**arguments)


if __name__ == "__main__":
    main()
