"""SGD and Adam with their state by parameter name, so that a transfer can carry it to another network.

The arithmetic is PyTorch's own (the functional form behind `torch.optim`, fused over all tensors). The classes of
`torch.optim` key their state by position, and creating one imports the whole compiler, which costs seconds per run.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from coopnet.networks.network import CooperativeNetwork
from coopnet.networks.transfer import OptimizerState
from coopnet.study.settings import SGD, Adam
from coopnet.training.gradient_ratio import ModuleRates
from coopnet.training.graph import number


class Optimizer:
    """Updates a network from its gradients.

    Attributes:
        lr: learning rate of the next step; a scalar on the device if steps are replayed.
        state: on the network's device: `momentum_buffer` for SGD; `exp_avg`, `exp_avg_sq` and `step` (a scalar per
            parameter) for Adam.
    """

    def __init__(
        self, network: CooperativeNetwork, options: SGD | Adam, state: OptimizerState, rates: ModuleRates | None = None
    ):
        """Start from `state`; missing entries are zero, and state of another kind of optimiser is ignored.

        `rates` multiplies the learning rate of each module by its own factor.
        """
        self.options = options
        self.rates = rates
        self.parameters = dict(network.named_parameters())
        self.lr = number(options.lr, next(iter(self.parameters.values())).device)
        names = ("momentum_buffer",) if isinstance(options, SGD) else ("exp_avg", "exp_avg_sq", "step")
        self.state: OptimizerState = {slot: self._filled(slot, state.get(slot, {})) for slot in names}

    def set_lr(self, value: float) -> None:
        """Set the learning rate of the following steps, without waiting for earlier ones."""
        if isinstance(self.lr, Tensor):
            self.lr.fill_(value)
        else:
            self.lr = value

    @torch.no_grad()
    def _filled(self, slot: str, known: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {}
        for name, parameter in self.parameters.items():
            # Strides as those of the parameter, or a scalar on its device: the fused kernels require it.
            tensor = parameter.new_zeros(()) if slot == "step" else torch.zeros_like(parameter)
            state[name] = tensor.copy_(known[name]) if name in known else tensor
        return state

    def clear_gradients(self) -> None:
        """Delete the gradients of the last step."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        if self.rates is None:
            self._update(list(self.parameters), self.lr)
            return
        for names, lr in zip(self.rates.modules.values(), (self.lr * self.rates.factors).unbind(), strict=True):
            self._update(names, lr)
        self.rates.update()

    def _update(self, names: Sequence[str], lr: float | Tensor) -> None:
        """Update these parameters; a learning rate that is a tensor stays on its device."""
        used = [name for name in names if self.parameters[name].grad is not None]
        parameters: list[Tensor] = [self.parameters[name] for name in used]
        gradients = [parameter.grad for parameter in parameters]
        state = {slot: [tensors[name] for name in used] for slot, tensors in self.state.items()}
        if isinstance(self.options, SGD):
            sgd(
                parameters,
                gradients,  # type: ignore[arg-type]  # parameters without a gradient were left out
                state["momentum_buffer"],  # type: ignore[arg-type]  # a list of tensors is also a list of optional tensors
                fused=True,
                weight_decay=self.options.weight_decay,
                momentum=self.options.momentum,
                lr=lr,  # type: ignore[arg-type,unused-ignore]  # the fused kernels take tensors, whatever the annotation says
                dampening=0.0,
                nesterov=self.options.nesterov,
                maximize=False,
            )
        else:
            adam(
                parameters,
                gradients,  # type: ignore[arg-type]
                state["exp_avg"],
                state["exp_avg_sq"],
                [],
                state["step"],
                fused=True,
                amsgrad=False,
                beta1=self.options.betas[0],
                beta2=self.options.betas[1],
                lr=lr,
                weight_decay=self.options.weight_decay,
                eps=1e-8,
                maximize=False,
            )
