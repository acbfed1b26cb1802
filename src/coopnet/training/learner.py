"""The state that training changes: weights, optimiser state, and the learning rate of each module."""

from collections.abc import Mapping

import torch
from torch import Tensor

from coopnet.networks.transfer import OptimizerState, TrainedNetwork
from coopnet.study.settings import Training
from coopnet.training.gradient_ratio import ModuleRates
from coopnet.training.optimizer import Optimizer

NETWORK, STATE, BEST, RATES = "network/", "slot/", "best/", "rates/"
"""Prefixes of the names of saved tensors."""


class Learner:
    """A network with its optimiser.

    Attributes:
        rates: the learning-rate factor of each module; None if all modules have one rate.
        best: weights and optimiser state of the best epoch so far; empty if no epoch is selected.
    """

    def __init__(self, initial: TrainedNetwork, training: Training, device: torch.device):
        self.network, self.options = initial.network, training.optimizer
        ratio = training.schedule.gradient_ratio
        self.rates = ModuleRates(self.network, ratio, device) if ratio else None
        self.optimizer = Optimizer(self.network, self.options, initial.optimizer_state, self.rates)
        self.best: dict[str, Tensor] = {}

    def keep_as_best(self) -> None:
        """Keep a copy of the current network as the best so far."""
        self.best = self._copies()

    def return_to_best(self) -> None:
        """Restore the network of the best epoch, if there is one."""
        if self.best:
            self._set(self.best)

    def state(self) -> dict[str, Tensor]:
        """Copies, on the CPU, of all that a resumed run needs."""
        tensors = self._copies() | {f"{BEST}{name}": tensor for name, tensor in self.best.items()}
        if self.rates is not None:
            tensors |= {f"{RATES}{name}": tensor for name, tensor in self.rates.state().items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a result of `state`."""
        self._set(tensors)
        self.best = _below(BEST, tensors)
        if self.rates is not None:
            self.rates.restore(_below(RATES, tensors))

    def _copies(self) -> dict[str, Tensor]:
        copies = {
            f"{NETWORK}{name}": tensor.detach().cpu().clone().contiguous()
            for name, tensor in self.network.state_dict().items()
        }
        for kind, tensors in self.optimizer.state.items():
            for name, tensor in tensors.items():
                copies[f"{STATE}{kind}/{name}"] = tensor.cpu().clone().contiguous()
        return copies

    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(_below(NETWORK, tensors))
        state: OptimizerState = {}
        for name, tensor in _below(STATE, tensors).items():
            kind, _, parameter = name.partition("/")
            state.setdefault(kind, {})[parameter] = tensor
        self.optimizer = Optimizer(self.network, self.options, state, self.rates)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
