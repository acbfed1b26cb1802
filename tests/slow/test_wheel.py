"""The wheel alone, in an environment with only its requirements."""

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

GROW_AND_EXPORT = """
import coopnet, torch

network = coopnet.cooperative("cifar_resnet8", branches=3, classes=10)
grown = coopnet.grow(network, 5, images=torch.randn(4, 3, 32, 32))
assert grown.receipt.measured.exact
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                            torch.nn.Flatten(), torch.nn.Linear(8, 10))
coopnet.wrap(model, split="2", branches=2, classes=10)
coopnet.save(grown.network, "grown", preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3})
print(coopnet.__file__)
"""

USE_ALONE = """
import sys
import numpy, onnxruntime

session = onnxruntime.InferenceSession("shipped/model.onnx")
print(session.run(None, {"images": numpy.zeros((3, 3, 32, 32), numpy.float32)})[0].shape)
assert not {"torch", "coopnet"} & set(sys.modules)
"""


def needed(requirements: list[str], extra: str) -> set[str]:
    """Names of all installed distributions that some requirements need, with an extra at the top level."""
    found: set[str] = set()
    open_ = [(Requirement(text), extra) for text in requirements]
    while open_:
        requirement, asked = open_.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": asked}):
            continue
        name = requirement.name.lower().replace("_", "-")
        if name not in found:
            found.add(name)
            open_ += [(Requirement(text), "") for text in metadata.requires(requirement.name) or ()]
        for more in requirement.extras:
            open_ += [(Requirement(text), more) for text in metadata.requires(requirement.name) or () if more in text]
    return found


def link(name: str, site: Path) -> None:
    """Make a distribution of this environment visible in another one."""
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
        target = site / top
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(top))))
        elif target.is_dir() and target.is_symlink():  # a namespace shared by several distributions
            assert target.resolve() == Path(str(distribution.locate_file(top))).resolve()


def installed(tmp_path: Path, *extras: str) -> tuple[Path, set[str]]:
    """An environment with the wheel and what some extras bring, and nothing else; and the names of these."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--offline", "--python", str(python)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (facts,) = site.glob("coopnet-*.dist-info/METADATA")
    requirements = metadata.PathDistribution(facts.parent).requires or []
    names = set().union(*(needed(requirements, extra) for extra in extras))
    for name in sorted(names):
        link(name, site)
    return site, names


def run(folder: Path, *command: str, code: int = 0) -> str:
    """What a command says, without anything of this checkout."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COOPNET_STORE")}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """It imports, grows, exports, and leaves the study's libraries out; the export runs in ONNX Runtime alone."""
    site, names = installed(tmp_path, "export")
    python, coopnet = (str(tmp_path / "env/bin" / name) for name in ("python", "coopnet"))
    assert {"torch", "onnxruntime"} <= names
    assert not {"pandas", "scipy", "scikit-learn", "matplotlib", "torchvision", "timm", "dvc", "snakemake"} & names
    assert str(site) in run(tmp_path, python, "-c", GROW_AND_EXPORT)
    assert (site / "coopnet/py.typed").is_file()
    run(tmp_path, coopnet, "export", "grown", "--branch", "5", "--out", "shipped")
    assert "(3, 10)" in run(tmp_path, python, "-c", USE_ALONE)
    assert "pip install '.[study]' in a clone" in run(tmp_path, coopnet, "prepare", "digits", code=1)


@pytest.mark.slow
def test_from_a_folder_of_images_to_onnx_runtime(tmp_path: Path) -> None:
    """The example of docs/your_data.md with a network of timm, in an environment that has the wheel and two extras."""
    images, example = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/your_data.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    subprocess.run([sys.executable, "-c", images], cwd=tmp_path, check=True)  # it has the digits of scikit-learn
    _, names = installed(tmp_path, "timm", "export")
    assert not {"scikit-learn", "pandas", "snakemake"} & names
    python, coopnet = (str(tmp_path / "env/bin" / name) for name in ("python", "coopnet"))
    said = run(tmp_path, python, "-c", example)
    assert "exact                     yes" in said
    assert re.search(r"changed predictions +0 of 359", said)
    table = run(tmp_path, coopnet, "predict", "digits_onnx", "digits_png/test", "--csv", "--top", "1")
    rows = [line.split(",") for line in table.splitlines() if line.startswith("digits_png")]
    assert len(rows) == 359
    assert sum(Path(path).parent.name == name for path, name, *_ in rows) > 250  # of 359; by chance 36
    card = (tmp_path / "digits_onnx/README.md").read_text(encoding="utf-8")
    alone = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)[-1]
    assert "coopnet" not in alone
    path, name, *_ = rows[0]
    shutil.copy(tmp_path / path, tmp_path / "digits_onnx/image.png")
    check = "\nimport sys\nassert not {'torch', 'coopnet'} & set(sys.modules)"
    assert run(tmp_path / "digits_onnx", python, "-c", alone + check).strip() == name
