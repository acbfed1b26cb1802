"""Importing checkpoints of the published ONE implementation."""

import copy
import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coopnet.files.errors import CoopNetError
from coopnet.networks import lan2018
from coopnet.networks.network import Architecture, CooperativeNetwork

CLASSES = 7


class Residual(nn.Module):
    """A published block: two convolutions, or three where `wide` (a bottleneck), under its names."""

    def __init__(self, inputs: int, planes: int, stride: int, wide: bool):
        super().__init__()
        outputs = 4 * planes if wide else planes
        # (kernel, inputs, outputs, stride) of each convolution
        plan = [(3, inputs, planes, stride), (3, planes, planes, 1)]
        if wide:
            plan = [(1, inputs, planes, 1), (3, planes, planes, stride), (1, planes, outputs, 1)]
        self.count = len(plan)
        for i, (kernel, a, b, s) in enumerate(plan, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, kernel, s, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.downsample = None
        if stride == 2 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = torch.relu(y)
        if self.downsample is not None:
            x = self.downsample(x)
        return torch.relu(x + y)


class Published(nn.Module):
    """The published networks, written again from their description; `branches` 0 is the baseline."""

    def __init__(
        self,
        branches: int,
        *,
        blocks: int = 1,
        wide: bool = False,
        spelling: str = "classfier",
        early: bool = False,
    ):
        super().__init__()
        self.count, self.spelling = branches, spelling
        grow = 4 if wide else 1
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)

        def layer(inputs: int, planes: int, stride: int) -> nn.Sequential:
            rest = [Residual(planes * grow, planes, 1, wide) for _ in range(blocks - 1)]
            return nn.Sequential(Residual(inputs, planes, stride, wide), *rest)

        self.layer1 = layer(16, 16, 1)
        self.layer2 = layer(16 * grow, 32, 2)
        if branches == 0:
            self.layer3 = layer(32 * grow, 64, 2)
            self.fc = nn.Linear(64 * grow, CLASSES)
            return
        if early:  # a follow-up that registers its gate before its branches
            self._add_gate(32 * grow)
        for b in range(1, branches + 1):
            self.add_module(f"layer3_{b}", layer(32 * grow, 64, 2))
        if not early:
            self._add_gate(32 * grow)
        for b in range(1, branches + 1):
            self.add_module(f"{spelling}3_{b}", nn.Linear(64 * grow, CLASSES))

    def _add_gate(self, inputs: int) -> None:
        self.control_v1 = nn.Linear(inputs, self.count)
        self.bn_v1 = nn.BatchNorm1d(self.count)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images [N, 3, 32, 32] → each branch's logits [N, C], and the ensemble's."""
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(images)))))
        if self.count == 0:
            logits = self.fc(F.avg_pool2d(self.layer3(x), 8).flatten(1))
            return [logits], logits
        gate = torch.softmax(torch.relu(self.bn_v1(self.control_v1(F.avg_pool2d(x, 16).flatten(1)))), dim=1)
        logits = [
            getattr(self, f"{self.spelling}3_{b}")(F.avg_pool2d(getattr(self, f"layer3_{b}")(x), 8).flatten(1))
            for b in range(1, self.count + 1)
        ]
        return logits, sum(gate[:, b : b + 1] * logits[b] for b in range(self.count))


def trained(model: Published) -> torch.optim.SGD:
    """Two steps of SGD on noise, then random BatchNorm statistics; returns the optimiser."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        branches, ensemble = model(torch.randn(8, 3, 32, 32))
        labels = torch.randint(CLASSES, (8,))
        optimizer.zero_grad()
        sum(F.cross_entropy(logits, labels) for logits in [*branches, ensemble]).backward()
        optimizer.step()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.3)
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return optimizer


def checkpoint(model: Published, optimizer: torch.optim.SGD) -> dict[str, Any]:
    """The content of a checkpoint that the published code saves after an epoch."""
    return {
        "epoch": 2,
        "state_dict": nn.DataParallel(model).state_dict(),
        "acc": 12.5,
        "best_acc": torch.tensor([12.5]),
        "optimizer": optimizer.state_dict(),
    }


def aged(content: dict[str, Any]) -> dict[str, Any]:
    """The same as saved by PyTorch 0.3: no batch counters, parameters identified by memory addresses."""
    state = [(k, v) for k, v in content["state_dict"].items() if not k.endswith("num_batches_tracked")]
    optimizer = content["optimizer"]
    (group,) = optimizer["param_groups"]
    address = {i: 140_000_000_000_000 - 64 * i for i in group["params"]}
    return content | {
        "state_dict": OrderedDict(state),
        "optimizer": {
            "state": {address[i]: entry for i, entry in optimizer["state"].items()},
            "param_groups": [group | {"params": [address[i] for i in group["params"]]}],
        },
    }


def unprefixed(content: dict[str, Any]) -> dict[str, Any]:
    """The same, saved from a model outside DataParallel."""
    return content | {"state_dict": {k.removeprefix("module."): v for k, v in content["state_dict"].items()}}


def same(content: dict[str, Any]) -> dict[str, Any]:
    """The content as the code saves it today."""
    return content


CASES = [
    pytest.param(({"branches": 0}, same), id="baseline"),
    pytest.param(({"branches": 0, "wide": True}, aged), id="baseline-bottleneck-old"),
    pytest.param(({"branches": 1}, same), id="one1"),
    pytest.param(({"branches": 3}, same), id="one3"),
    pytest.param(({"branches": 3}, aged), id="one3-old"),
    pytest.param(({"branches": 3, "blocks": 2}, unprefixed), id="one3-two-blocks-without-prefix"),
    pytest.param(({"branches": 3, "wide": True, "blocks": 2}, same), id="one3-bottleneck"),
    pytest.param(({"branches": 4, "spelling": "classifier"}, same), id="one4-classifier"),
    pytest.param(({"branches": 5, "spelling": "classifier", "early": True}, unprefixed), id="one5-gate-first"),
    pytest.param(({"branches": 11}, same), id="one11"),
]


class Case(NamedTuple):
    """A published network, the optimiser that trained it, and its imported checkpoint."""

    model: Published
    optimizer: torch.optim.SGD
    imported: lan2018.Imported
    network: CooperativeNetwork


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each kind of published network, trained, saved and imported."""
    arguments, edit = request.param
    torch.manual_seed(1)
    model = Published(**arguments)
    optimizer = trained(model)
    path = tmp_path_factory.mktemp("published") / "model_best.pth.tar"
    content = edit(checkpoint(model, optimizer))
    torch.save(content, path, _use_new_zipfile_serialization=edit is not aged)
    imported = lan2018.read(path)
    network = CooperativeNetwork(imported.architecture)
    network.load_state_dict(imported.state)
    return Case(model.eval(), optimizer, imported, network.eval())


def test_imported_network_is_the_published_one(case: Case) -> None:
    """Branch and ensemble logits equal those of the network that was saved."""
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        branches, ensemble = case.model(images)
        outputs = case.network(images)
    torch.testing.assert_close(outputs.branches, torch.stack(branches, dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.ensemble, ensemble, atol=1e-5, rtol=0)


def test_momentum_belongs_to_the_same_parameters(case: Case) -> None:
    """The pairs of parameter and momentum in the file are the pairs in the import."""

    def digest(*tensors: Tensor) -> str:
        return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()

    state, momentum = case.imported.state, case.imported.momentum
    assert momentum is not None
    assert set(momentum) == {name for name, _ in case.network.named_parameters()}
    published = [digest(p, case.optimizer.state[p]["momentum_buffer"]) for p in case.model.parameters()]
    assert sorted(digest(state[name], momentum[name]) for name in momentum) == sorted(published)


@pytest.fixture(scope="module")
def one3() -> tuple[Published, torch.optim.SGD, dict[str, Any]]:
    """A trained three-branch network, its optimiser and its checkpoint; copy before editing."""
    torch.manual_seed(3)
    model = Published(3)
    optimizer = trained(model)
    return model, optimizer, checkpoint(model, optimizer)


@pytest.fixture
def content(one3: tuple[Published, torch.optim.SGD, dict[str, Any]]) -> dict[str, Any]:
    """A checkpoint of three branches to edit."""
    return copy.deepcopy(one3[2])


def read(folder: Path, content: object) -> lan2018.Imported:
    """Save a file and import it."""
    path = folder / "net.pth.tar"
    torch.save(content, path)
    return lan2018.read(path)


def refusal(folder: Path, content: object) -> str:
    """The error message for this file, which is one line."""
    with pytest.raises(CoopNetError) as caught:
        read(folder, content)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("trunk.stem.0.weight", "conv1.weight"),
        ("trunk.stages.1.0.shortcut.0.weight", "layer2.0.downsample.0.weight"),
        ("branches.2.stage.0.bn2.weight", "layer3_3.0.bn2.weight"),
        ("branches.1.classifier.bias", "classfier3_2.bias"),
        ("gate.linear.weight", "control_v1.weight"),
        ("gate.norm.bias", "bn_v1.bias"),
    ],
)
def test_names(tmp_path: Path, one3: Any, ours: str, theirs: str) -> None:
    """A tensor and its momentum have the name of the corresponding place in our network."""
    model, optimizer, content = one3
    imported = read(tmp_path, content)
    parameter = dict(model.named_parameters())[theirs]
    assert torch.equal(imported.state[ours], parameter)
    assert torch.equal(imported.momentum[ours], optimizer.state[parameter]["momentum_buffer"])


@pytest.mark.parametrize(
    ("arguments", "depth", "block", "branches", "gate"),
    [
        ({"branches": 0, "blocks": 2}, 14, "basic", 1, "none"),
        ({"branches": 1}, 8, "basic", 1, "learned"),
        ({"branches": 5, "wide": True}, 11, "bottleneck", 5, "learned"),
    ],
)
def test_architecture(
    tmp_path: Path, arguments: dict[str, Any], depth: int, block: str, branches: int, gate: str
) -> None:
    """Depth, block, branches, gate and classes are inferred from keys and shapes."""
    state = Published(**arguments).state_dict()
    found = read(tmp_path, {"state_dict": state}).architecture
    assert found == Architecture("cifar_resnet", depth, block, 16, branches, gate, CLASSES)


def test_published_110_has_18_bottlenecks_per_stage(tmp_path: Path) -> None:
    """The published ResNet-110 is imported with its 1,727,284 parameters (100 classes)."""
    model = Published(0, blocks=18, wide=True)
    model.fc = nn.Linear(256, 100)
    imported = read(tmp_path, {"state_dict": model.state_dict()})
    parameters = sum(p.numel() for p in CooperativeNetwork(imported.architecture).parameters())
    assert (imported.architecture.depth, imported.architecture.block) == (164, "bottleneck")
    assert parameters == sum(p.numel() for p in model.parameters()) == 1_727_284


def test_single_branch_without_gate(tmp_path: Path, content: dict[str, Any]) -> None:
    """A one-branch file without control_v1 is a plain network; its numbered branch is the only one."""
    state = {
        k: v
        for k, v in content["state_dict"].items()
        if not k.startswith(("module.control_v1", "module.bn_v1")) and "3_2" not in k and "3_3" not in k
    }
    imported = read(tmp_path, {"state_dict": state})
    assert imported.architecture.gate == "none"
    assert torch.equal(imported.state["branches.0.classifier.bias"], state["module.classfier3_1.bias"])


def test_log_prior_is_zero(tmp_path: Path, content: dict[str, Any]) -> None:
    """The published gate has no log-prior, which equals a log-prior of zeros."""
    assert torch.equal(read(tmp_path, content).state["gate.log_prior"], torch.zeros(3))


def test_source_and_preprocessing(tmp_path: Path, content: dict[str, Any]) -> None:
    """The import records the file, its digest, the layout, the epoch and the published normalisation."""
    imported = read(tmp_path, content)
    assert imported.source == {
        "file": "net.pth.tar",
        "sha256": hashlib.sha256((tmp_path / "net.pth.tar").read_bytes()).hexdigest(),
        "layout": "lan2018",
        "epoch": 2,
    }
    assert imported.preprocessing == {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}


def test_without_optimizer(tmp_path: Path, content: dict[str, Any]) -> None:
    """A file without optimiser is imported without momentum."""
    del content["optimizer"]
    assert read(tmp_path, content).momentum is None


@pytest.mark.parametrize("optimizer", [None, {}, [], {"state": {}}, {"state": {}, "param_groups": []}])
def test_empty_optimizer(tmp_path: Path, content: dict[str, Any], optimizer: object) -> None:
    """An empty optimiser counts as none: the weights are imported without momentum."""
    assert read(tmp_path, content | {"optimizer": optimizer}).momentum is None


def test_optimizer_without_momentum(tmp_path: Path, one3: Any) -> None:
    """An optimiser without momentum is imported without momentum."""
    model, _, content = one3
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    assert read(tmp_path, content | {"optimizer": plain.state_dict()}).momentum is None


def test_half_precision_becomes_float32(tmp_path: Path, content: dict[str, Any]) -> None:
    """Weights in half precision keep their values and become float32."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    stem = read(tmp_path, {"state_dict": half}).state["trunk.stem.0.weight"]
    assert stem.dtype == torch.float32
    assert torch.equal(stem, half["module.conv1.weight"].float())


@pytest.mark.parametrize(
    "key",
    [
        "conv1.weight",
        "layer3_2.0.bn1.running_mean",
        "layer2.0.conv2.weight",
        "classfier3_3.bias",
        "bn_v1.weight",
    ],
)
def test_missing_key(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    """Only the missing tensor is named."""
    del content["state_dict"][f"module.{key}"]
    assert f"layout: 1 missing (module.{key});" in refusal(tmp_path, content)


def test_unexpected_key(tmp_path: Path, content: dict[str, Any]) -> None:
    """Only the tensor of another network is named."""
    content["state_dict"]["module.layer4.0.conv1.weight"] = torch.zeros(1)
    assert "layout: 1 unexpected (module.layer4.0.conv1.weight);" in refusal(tmp_path, content)


@pytest.mark.parametrize("key", ["conv1.weight", "layer1.0.conv2.weight", "classfier3_1.weight", "control_v1.bias"])
def test_wrong_shape(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    """Only the tensor of the wrong shape is named, with its shape and the expected one."""
    tensor = content["state_dict"][f"module.{key}"]
    content["state_dict"][f"module.{key}"] = torch.zeros(9, *tensor.shape[1:])
    found, right = [9, *tensor.shape[1:]], list(tensor.shape)
    assert f"1 of the wrong shape (module.{key} is {found} instead of {right});" in refusal(tmp_path, content)


def test_integer_weights(tmp_path: Path, content: dict[str, Any]) -> None:
    """Quantised weights are not accepted as floating-point weights."""
    content["state_dict"]["module.bn1.bias"] = torch.zeros(16, dtype=torch.int64)
    assert "module.bn1.bias is [16] of strided int64 instead of [16]" in refusal(tmp_path, content)


def test_long_lists_are_cut(tmp_path: Path, content: dict[str, Any]) -> None:
    """For many missing keys the message has their number and the first five."""
    state = {k: v for k, v in content["state_dict"].items() if "layer3_2" not in k}
    message = refusal(tmp_path, {"state_dict": state})
    missing = 2 * 4 + 4 + 3  # two BatchNorms and the shortcut's (without counters), three convolutions
    assert f"{missing} missing (module.layer3_2.0.conv1.weight, " in message
    assert message.count("module.layer3_2") == 5
    assert ", …)" in message


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ({}, "no 'state_dict'"),
        ([1, 2], "no 'state_dict'"),
        ({"state_dict": {}}, "is empty"),
        ({"state_dict": torch.zeros(2)}, "is empty or not a dictionary"),
        ({"state_dict": {"conv1.weight": 3.0}}, "1 that are not tensors (conv1.weight)"),
        ({"state_dict": {"features.0.weight": torch.zeros(2)}}, "not of the lan2018 layout"),
    ],
)
def test_foreign_content(tmp_path: Path, edited: object, words: str) -> None:
    """A file that loads but has no published network is refused with the reason."""
    assert words in refusal(tmp_path, edited)


@pytest.mark.parametrize("damage", [b"", b"\x93\x07 no checkpoint" * 40, b"PK\x03\x04" + bytes(500)])
def test_random_bytes(tmp_path: Path, damage: bytes) -> None:
    """Bytes that are not a checkpoint are refused as damaged."""
    path = tmp_path / "net.pth.tar"
    path.write_bytes(damage)
    with pytest.raises(CoopNetError, match="damaged"):
        lan2018.read(path)


def test_truncated(tmp_path: Path, content: dict[str, Any]) -> None:
    """Half a checkpoint is refused as damaged."""
    path = tmp_path / "net.pth.tar"
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CoopNetError, match="damaged"):
        lan2018.read(path)


@pytest.mark.parametrize("name", ["absent.pth.tar", "."])
def test_not_a_file(tmp_path: Path, name: str) -> None:
    """A path without a file is named."""
    with pytest.raises(CoopNetError, match="is not a file"):
        lan2018.read(tmp_path / name)


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_the_file_is_not_run(tmp_path: Path, content: dict[str, Any], modern: bool) -> None:
    """A checkpoint with code is refused; the code is named and not run."""
    path, trace = tmp_path / "net.pth.tar", tmp_path / "trace"
    torch.save(content | {"acc": Bomb(trace)}, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(CoopNetError, match=r"holds posix\.mkdir.*nothing in it was loaded or run"):
        lan2018.read(path)
    assert not trace.exists()


def test_numpy_scalars(tmp_path: Path, content: dict[str, Any]) -> None:
    """A NumPy scalar, which the safe loader refuses, gets an error with the remedy."""
    message = refusal(tmp_path, content | {"best_acc": np.float64(70.1)})
    assert "multiarray.scalar" in message
    assert "save only its 'state_dict', 'optimizer' and 'epoch'" in message


def test_momentum_of_the_wrong_shape(tmp_path: Path, content: dict[str, Any]) -> None:
    """Momentum that does not fit its parameter is refused, and the parameter is named."""
    content["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(2)
    message = refusal(tmp_path, content)
    assert "the momentum of module.conv1.weight is [2] instead of [16, 3, 3, 3]" in message


def test_keys_in_another_order(tmp_path: Path, content: dict[str, Any]) -> None:
    """With sorted keys the owner of each momentum is unknown, so the file is refused."""
    content["state_dict"] = dict(sorted(content["state_dict"].items()))
    assert "does not belong to its network" in refusal(tmp_path, content)


def test_optimizer_of_another_network(tmp_path: Path, content: dict[str, Any]) -> None:
    """An optimiser with another number of parameters is refused; the message has both numbers."""
    parameters = len(content["optimizer"]["param_groups"][0]["params"])
    content["optimizer"]["param_groups"][0]["params"].pop()
    assert f"has {parameters - 1} parameters, its network {parameters};" in refusal(tmp_path, content)


@pytest.mark.parametrize("optimizer", [[1], {"state": {0: {}}}, {"state": {}, "param_groups": [{}, {}]}])
def test_foreign_optimizer(tmp_path: Path, content: dict[str, Any], optimizer: object) -> None:
    """An optimiser state of another form is refused, and the message says how to import without it."""
    message = refusal(tmp_path, content | {"optimizer": optimizer})
    assert "is not one group of parameters" in message
    assert "without 'optimizer'" in message
