"""What an unfinished run keeps on disk so that it can continue, tied to one run key, one machine and one version."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coopnet import files
from coopnet.files.errors import CoopNetError
from coopnet.runs import checkpoint

log = logging.getLogger(__name__)

INDEX = "state.json"


class ResumeFolder:
    """Two files that take turns, and an index that names the good one, replaced last.

    State of another machine or version is not continued, since the bits that follow would be neither the one's nor
    the other's. It is not touched either: each has a folder of its own, and whoever goes back there can continue.

    Attributes:
        run: the folder of this run alone.
        identity: key, device, libraries and source.
        folder: the folder in `run` that belongs to this identity.
    """

    def __init__(self, run: Path, identity: Mapping[str, Any]):
        self.run, self.identity = run, dict(identity)
        self.folder = run / hashlib.sha256(_text(self.identity).encode()).hexdigest()[:12]

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last `save`, or None where there are none that may be used."""
        index = self.folder / INDEX
        if not index.exists():
            self._tell_of_others()
            return None
        try:
            saved = files.read_sealed(index)
            if _text(saved["identity"]) != _text(self.identity):
                raise CoopNetError(f"{index} is that of another run, machine or version")
            path = self.folder / saved["tensors"]
            if files.sha256(path) != saved["sha256"]:
                raise CoopNetError(f"{path} is damaged")
            tensors = checkpoint.read_tensors(path)
        except (CoopNetError, KeyError, TypeError) as error:
            log.warning("the saved state cannot be used (%s); this run starts over", error)
            return None
        return tensors, saved["facts"]

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace what was saved before; a crash at any moment leaves the one or the other whole."""
        index = self.folder / INDEX
        name = "b.safetensors" if self._last() == "a.safetensors" else "a.safetensors"
        checkpoint.write_tensors(self.folder / name, tensors)
        digest = files.sha256(self.folder / name)
        content = {"identity": self.identity, "tensors": name, "sha256": digest, "facts": facts}
        # Not sorted: the order of a row's columns is that of the history.
        files.write_text(index, json.dumps(files.sealed(content), allow_nan=False))

    def _tell_of_others(self) -> None:
        for index in sorted(self.run.glob(f"*/{INDEX}")):
            try:
                other = files.read_json(index)["identity"]
                different = [name for name in self.identity if other[name] != self.identity[name]]
            except (CoopNetError, KeyError, TypeError):
                continue
            details = "; ".join(f"{name} there {other[name]}, here {self.identity[name]}" for name in different)
            log.warning("%s is of another machine or version (%s); this run starts over", index.parent, details)

    def _last(self) -> str | None:
        """The tensors that the index names; None where it is missing or damaged, and nothing is worth keeping."""
        try:
            name: str = files.read_json(self.folder / INDEX)["tensors"]
        except (CoopNetError, KeyError, TypeError):
            return None
        return name


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
