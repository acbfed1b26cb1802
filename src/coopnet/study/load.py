"""Reading a study: `params.yaml` and the overlay that changes it."""

import re
from pathlib import Path
from typing import Any

from coopnet.data.datasets import DATASETS, Dataset
from coopnet.files import yaml_files
from coopnet.files.errors import CoopNetError
from coopnet.study.messages import check, did_you_mean, short
from coopnet.study.plan import Study, plan
from coopnet.study.rows import known_datasets, resolve
from coopnet.study.settings import Experiment, Overlay, Parameters

FULL = "full"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)  # Snakemake would read 007, 1e3 or 2024_01 as a number
RESERVED = ("bench", "dvc")
"""Names that no study may have: `results/bench` has the benchmarks, and `studies/dvc.yaml` has DVC's stages."""
RULE = f"small letters, digits, _ and -, a letter first, at most 64, and none of {', '.join((FULL, *RESERVED))}"


def load(root: Path, name: str = FULL) -> Study:
    """Read and check a study.

    Args:
        root: the folder with `params.yaml`; overlays are `studies/<name>.yaml` in it.
        name: `full` for `params.yaml` itself.

    Raises:
        CoopNetError: anything wrong with the files, naming key, value and remedy.
    """
    parameters, overlay, source = _read(root, name)
    experiments, data = resolve(parameters, overlay, source), known_datasets(parameters)
    return Study(
        name=name,
        title=overlay.title or parameters.title,
        description=parameters.description if name == FULL else overlay.description or "",
        device=overlay.device or parameters.device,
        threads=overlay.threads or parameters.threads,
        experiments=experiments,
        runs=plan(
            experiments,
            overlay.seeds or parameters.seeds,
            overlay.threads or parameters.threads,
            root,
            source,
            data,
        ),
        data=data,
    )


def datasets(root: Path) -> dict[str, Dataset]:
    """All datasets of a workspace by name: the project's own, and those that `params.yaml` describes.

    Raises:
        CoopNetError: anything wrong with the file, except in its rows.
    """
    path = root / "params.yaml"
    if not path.is_file():  # the project's own datasets can be prepared anywhere
        return dict(DATASETS)
    return known_datasets(check(Parameters, read_yaml(path), path.name))


def dataset(root: Path, name: str) -> Dataset:
    """A dataset of a workspace.

    Raises:
        CoopNetError: there is none of that name.
    """
    known = datasets(root)
    if name not in known:
        raise CoopNetError(
            f"there is no dataset {name!r}{did_you_mean(name, known)} (known: {', '.join(known)}); "
            "describe your own in params.yaml, under datasets"
        )
    return known[name]


def rows(root: Path) -> dict[str, Experiment]:
    """All rows of `params.yaml`, including those that no study uses.

    Raises:
        CoopNetError: anything wrong with the file.
    """
    return resolve(*_read(root, FULL))


def names(root: Path) -> list[str]:
    """All studies of a workspace: `full`, and its overlays.

    Raises:
        CoopNetError: the name of an overlay cannot be the name of a study.
    """
    # A name with a dot first is no study, but what an editor or an archive left beside one.
    overlays = sorted(path.stem for path in (root / "studies").glob("[!.]*.yaml") if path.name != "dvc.yaml")
    for name in overlays:
        if name == FULL or name in RESERVED or not NAME.fullmatch(name):
            raise CoopNetError(f"studies: {short(repr(name + '.yaml'))} cannot be a study; rename the file: {RULE}")
    return [FULL, *overlays]


def checked_name(name: str) -> str:
    """Check the name of a study before it becomes part of a path, and return it.

    Raises:
        CoopNetError: it is not a valid name.
    """
    if not NAME.fullmatch(name):
        raise CoopNetError(f"there is no study {short(repr(name))}: a name must be {RULE}")
    return name


def _read(root: Path, name: str) -> tuple[Parameters, Overlay, str]:
    """`params.yaml`, the overlay of a study, and the name of both for messages."""
    source = "params.yaml"
    parameters = check(Parameters, read_yaml(root / source), source)
    if name == FULL:
        return parameters, Overlay(), source
    path = root / "studies" / f"{name}.yaml"
    known = names(root)
    if name not in known:
        raise CoopNetError(
            f"there is no study {short(repr(name))}{did_you_mean(name, known)} (known: {', '.join(known)})"
        )
    overlay = check(Overlay, read_yaml(path), f"studies/{name}.yaml")
    return parameters, overlay, f"studies/{name}.yaml over {source}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        CoopNetError: the file is missing, is not YAML, is not a mapping, repeats a key or is too large.
    """
    content = yaml_files.read(path)
    if not isinstance(content, dict):
        raise CoopNetError(f"{path} must be a mapping of keys to values, not {type(content).__name__}")
    return content
