"""Cooperative networks: on-the-fly native ensembles, their growth and their merging, as one reproducible study.

As a library: `cooperative` and `wrap` make networks, and `CooperativeLoss` trains them. `grow`, `expand`, `merge` and
`combine` build new networks from trained ones. `branch` and `subset` extract the parts to deploy, `save` and `load`
store networks, `export` writes them for other programs, and `open_model` and `predict` run exported models. Each name
is imported, and PyTorch with it, when it is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers treat this name as true; importing `typing` would take 30 ms
if TYPE_CHECKING:
    from coopnet.deploy.export import export as export
    from coopnet.deploy.models import open_model as open_model
    from coopnet.deploy.predict import predict as predict
    from coopnet.files.errors import CoopNetError as CoopNetError
    from coopnet.library.build import cooperative as cooperative
    from coopnet.library.build import wrap as wrap
    from coopnet.library.loss import CooperativeLoss as CooperativeLoss
    from coopnet.library.parts import Ensemble as Ensemble
    from coopnet.library.parts import branch as branch
    from coopnet.library.parts import folded as folded
    from coopnet.library.parts import subset as subset
    from coopnet.library.receipt import Receipt as Receipt
    from coopnet.library.saved import load as load
    from coopnet.library.saved import load_optimizer as load_optimizer
    from coopnet.library.saved import save as save
    from coopnet.library.transfers import Transferred as Transferred
    from coopnet.library.transfers import combine as combine
    from coopnet.library.transfers import expand as expand
    from coopnet.library.transfers import grow as grow
    from coopnet.library.transfers import merge as merge
    from coopnet.library.transfers import open_branches as open_branches
    from coopnet.networks.backbone import splits as splits
    from coopnet.networks.network import CooperativeNetwork as CooperativeNetwork
    from coopnet.networks.network import Outputs as Outputs

__version__ = "0.1.0"

_PLACES = {
    "CoopNetError": "files.errors",
    "CooperativeLoss": "library.loss",
    "CooperativeNetwork": "networks.network",
    "Ensemble": "library.parts",
    "Outputs": "networks.network",
    "Receipt": "library.receipt",
    "Transferred": "library.transfers",
    "branch": "library.parts",
    "combine": "library.transfers",
    "cooperative": "library.build",
    "expand": "library.transfers",
    "export": "deploy.export",
    "folded": "library.parts",
    "grow": "library.transfers",
    "load": "library.saved",
    "load_optimizer": "library.saved",
    "merge": "library.transfers",
    "open_branches": "library.transfers",
    "open_model": "deploy.models",
    "predict": "deploy.predict",
    "save": "library.saved",
    "splits": "networks.backbone",
    "subset": "library.parts",
    "wrap": "library.build",
}
"""The module of each public name."""

__all__ = ["__version__", *_PLACES]


if not TYPE_CHECKING:  # otherwise type checkers would accept any misspelt name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES} - {"TYPE_CHECKING", "import_module"})
