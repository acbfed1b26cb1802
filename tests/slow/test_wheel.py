"""The wheel alone, in an environment with only its requirements."""

import os
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


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """The wheel imports, grows and exports without the study's libraries; the export runs in ONNX Runtime."""
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
    names = needed(requirements, "export")
    assert {"torch", "onnxruntime"} <= names
    assert not {"pandas", "scipy", "scikit-learn", "matplotlib", "torchvision", "timm", "dvc", "snakemake"} & names
    for name in sorted(names):
        link(name, site)

    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COOPNET_STORE")}

    def do(*command: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert str(site) in do(str(python), "-c", GROW_AND_EXPORT)
    assert (site / "coopnet/py.typed").is_file()
    coopnet = str(tmp_path / "env/bin/coopnet")
    do(coopnet, "export", "grown", "--branch", "5", "--out", "shipped")
    assert "(3, 10)" in do(str(python), "-c", USE_ALONE)
    assert "pip install 'coopnet[study]'" in do(coopnet, "prepare", "digits", code=1)
