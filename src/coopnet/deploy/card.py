"""The model card beside an export, made from the network's record and from measurements."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from coopnet import __version__
from coopnet.deploy import measure
from coopnet.deploy.models import BATCHES, Model


class Facts(NamedTuple):
    """Facts about an export.

    Attributes:
        name: of the network.
        branches: numbered from 1; None for the whole ensemble.
        of: branches of the network.
        form: `onnx`, `pt2` or `safetensors`.
        parameters: of the module.
        flops: of one image.
        size: bytes of the model's files.
        largest_difference: between its logits and the network's.
        compared: images on which they were compared.
    """

    name: str
    branches: list[int] | None
    of: int
    form: str
    parameters: int
    flops: int
    size: int
    largest_difference: float
    compared: int


def write(
    facts: Facts, model: Model, record: Mapping[str, Any], tested: tuple[str, np.ndarray, np.ndarray] | None
) -> str:
    """The model card as Markdown.

    Args:
        facts: of the export.
        model: the export, opened again.
        record: of the network.
        tested: name of the data, logits [N, C] and labels [N]; None without test images.
    """
    sections = [
        f"# {_title(facts)}",
        _what(facts, model, record),
        "## Accuracy\n\n" + _accuracy(tested),
        "## Cost\n\n" + _cost(facts, model),
        "## Where it comes from\n\n" + _descent(record),
        "## How to use it\n\n" + _use(facts.form, model),
    ]
    return "\n\n".join(sections) + "\n"


def _title(facts: Facts) -> str:
    if facts.branches is None:
        part = f"ensemble of {facts.of} branches" if facts.of > 1 else "its one branch"
    elif len(facts.branches) == 1:
        part = f"branch {facts.branches[0]} of {facts.of}"
    else:
        part = f"branches {', '.join(map(str, facts.branches))} of {facts.of}"
    return f"{facts.name}: {part}"


def _what(facts: Facts, model: Model, record: Mapping[str, Any]) -> str:
    architecture, known = record.get("architecture", {}), model.preprocessing
    described = ", ".join(f"{key} {value}" for key, value in sorted(architecture.items()))
    data = record.get("data") or {}
    return (
        f"An image classifier of {len(known.class_names)} classes, written by CoopNet {__version__} as {facts.form}. "
        f"It is part of a cooperative network (On-the-Fly Native Ensemble, arXiv 1806.04606).\n\n"
        f"- Network: {described}\n"
        f"- Trained on: {data.get('dataset', 'data that its record does not name')}\n"
        f"- Takes: {known.to_dict()['input']}, {known.size}×{known.size} pixels; gives logits [N, "
        f"{len(known.class_names)}]. Mean, standard deviation and class names are in `preprocessing.json`."
    )


def _accuracy(tested: tuple[str, np.ndarray, np.ndarray] | None) -> str:
    if tested is None:
        return "Not measured: there were no labelled test images at the export."
    dataset, logits, labels = tested
    one = measure.quality(logits, labels)
    top5 = f"| top-5 | {one.top5:.2f} % |\n" if logits.shape[1] > 5 else ""  # of five classes it is always 100 %
    return (
        f"On the {one.images:,} test images of {dataset}, by this export itself:\n\n"
        "| measure | value |\n| --- | --- |\n"
        f"| top-1 | {one.top1:.2f} % (95 % interval {one.low:.2f} to {one.high:.2f}, n = {one.images:,} images) |\n"
        f"{top5}"
        f"| expected calibration error | {one.ece:.2f} % |\n"
        f"| negative log-likelihood | {one.nll:.4f} nats |\n\n"
        "The interval (Wilson) is that of the choice of test images; another seed gives another network."
    )


def _cost(facts: Facts, model: Model) -> str:
    rows = [
        ("parameters", f"{facts.parameters:,} (BatchNorm is part of the convolutions)"),
        ("FLOPs of an image", f"{facts.flops:,} (a multiply-add as 2)"),
        ("file size", f"{facts.size / 1e6:.2f} MB"),
        *((f"latency, batch {batch}", f"{model.latency(batch):.2f} ms") for batch in BATCHES),
    ]
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    return (
        f"| measure | value |\n| --- | --- |\n{table}\n\n"
        f"Latency is the median in {model.form} on: {measure.machine()}.\n\n"
        f"Before it was written, its logits were compared with the network's on {facts.compared:,} images: the largest "
        f"difference is {facts.largest_difference:.1e}."
    )


def _descent(record: Mapping[str, Any]) -> str:
    row = record.get("row") or {}
    start = row.get("start", {}).get("kind")
    parents = [str(parent.get("key") or parent.get("digest")) for parent in record.get("parents") or ()]
    facts = [
        ("run key", record.get("key")),
        ("seed", record.get("seed")),
        ("started as", start),
        ("parents", ", ".join(parents) or None),
        ("transfer", (record.get("receipt") or {}).get("how")),
        ("imported from", (record.get("source") or {}).get("file")),
        ("SHA-256 of its weights", (record.get("files") or {}).get("model.safetensors")),
        ("licence", f"{_licence()} (of the code that made it; the training data have terms of their own)"),
    ]
    return "\n".join(f"- {label}: {value}" for label, value in facts if value is not None)


def _licence() -> str:
    known = metadata.metadata("coopnet")
    return next((str(known[name]) for name in ("License-Expression", "License") if name in known), "not stated")


def _use(form: str, model: Model) -> str:
    shell = "```sh\ncoopnet predict . image.png --top 3\n```"
    own = (
        "```python\n"
        "import coopnet\n\n"
        'model = coopnet.open_model(".")\n'
        'for prediction in coopnet.predict(model, ["image.png"]):\n'
        "    print(prediction.path, prediction.best)\n"
        "```"
    )
    return f"On the command line:\n\n{shell}\n\nIn Python:\n\n{own}\n\n{_alone(form, model.preprocessing.in_graph)}"


def _alone(form: str, in_graph: bool) -> str:
    """How to use the export without this project, as far as its form allows."""
    if form == "safetensors":
        return (
            "As a PyTorch network, for more training or growth:\n\n"
            "```python\n"
            "import coopnet\n"
            "import torch\n\n"
            'network = coopnet.load(".")\n'
            "size = coopnet.open_model('.').preprocessing.size\n"
            "print(network(torch.zeros(1, 3, size, size)).ensemble.shape)\n"
            "```"
        )
    pixels = (
        "import json\n\n"
        "import numpy as np\n"
        "{imports}"
        "from PIL import Image, ImageOps\n\n"
        'known = json.load(open("preprocessing.json"))\n'
        'size = (known["size"], known["size"])\n'
        'image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")\n'
        "image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)\n"
    )
    pixels += (
        "images = np.asarray(image)[None]\n"
        if in_graph
        else "images = (np.asarray(image, np.float32) / 255 - known['mean']) / known['std']\n"
        "images = images.astype(np.float32).transpose(2, 0, 1)[None]\n"
    )
    if form == "onnx":
        code = pixels.format(imports="import onnxruntime\n") + (
            'session = onnxruntime.InferenceSession("model.onnx")\n'
            'logits = session.run(["logits"], {"images": images})[0]\n'
        )
        title = "In ONNX Runtime alone, without PyTorch and without CoopNet:"
    else:
        code = pixels.format(imports="import torch\n") + (
            'model = torch.export.load("model.pt2").module()\n'
            "logits = model(torch.from_numpy(images)).detach().numpy()\n"
        )
        title = "In PyTorch alone, without CoopNet:"
    code += 'print(known["class_names"][int(logits[0].argmax())])\n'
    return f"{title}\n\n```python\n{code}```"
