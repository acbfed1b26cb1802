"""One learning rate per module, by the ratio of the last module's gradients to its own.

The "geometric" rule of the student study that this project follows: with g the mean absolute gradient over all
elements of a module's parameters, a module's factor is clip(g_last / g, lowest, highest); the last module's is 1.
All values stay on the device, so that no step has to wait for a number.
"""

import torch
from torch import Tensor

from coopnet.networks.network import CooperativeNetwork
from coopnet.study.settings import GradientRatio


def modules(network: CooperativeNetwork) -> dict[str, list[str]]:
    """Parameters by parameterised leaf module, from input to output.

    The order is stem, shared stages, last stage of branch 1 … B, gate linear, gate BatchNorm, classifier 1 … B. In a
    network around another model, its own trunk, branches and last layers take these places.
    """
    found: dict[str, list[str]] = {}
    classifier = network.architecture.classifier
    for name, _ in sorted(network.named_parameters(), key=lambda item: _place(item[0], classifier)):
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _place(name: str, classifier: str) -> int:
    """The group (of four) of a parameter; sorting is stable, so each group keeps the network's own order.

    Args:
        name: of the parameter.
        classifier: name, within a branch, of the layer that computes the logits.
    """
    if name.startswith("trunk"):
        return 0
    if name.startswith("gate"):
        return 2
    within = name.split(".", 2)[2]  # the name within the branch
    return 3 if within.startswith(f"{classifier}.") else 1


class ModuleRates:
    """The factors, their update rule, and their mean over an epoch.

    Attributes:
        modules: names of parameters by module, M of them.
        factors: [M] float32, of the next step.
        sums: [M] float64, sum of the factors used in this epoch.
        taken: number of steps so far, a scalar.
    """

    def __init__(self, network: CooperativeNetwork, options: GradientRatio, device: torch.device):
        self.options = options
        self.parameters = dict(network.named_parameters())
        self.modules = modules(network)
        self.factors = torch.ones(len(self.modules), device=device)
        self.sums = torch.zeros(len(self.modules), dtype=torch.float64, device=device)
        self.taken = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self) -> None:
        """Count a step that used `factors`; after every k-th step compute new factors from its gradients."""
        self.sums += self.factors
        self.taken += 1
        sizes = torch.stack([self._mean_gradient(names) for names in self.modules.values()])
        ratio = torch.nan_to_num(sizes[-1] / sizes, nan=1.0, posinf=torch.inf)
        ratio = ratio.clamp(self.options.lowest, self.options.highest)
        ratio[-1].fill_(1.0)  # an assignment would copy the number from the host, and the step would wait for it
        smoothing = self.options.smoothing
        new = smoothing * self.factors + (1 - smoothing) * ratio
        # Chosen on the device, in place: every step is then the same work, due or not, and can be replayed.
        self.factors.copy_(torch.where(self.taken % self.options.every == 0, new, self.factors))

    def _mean_gradient(self, names: list[str]) -> Tensor:
        """Mean absolute gradient over all elements of some parameters; those without a gradient count as zeros."""
        total = torch.zeros((), device=self.factors.device)
        for name in names:
            gradient = self.parameters[name].grad
            if gradient is not None:
                total = total + gradient.abs().sum()
        return total / sum(self.parameters[name].numel() for name in names)

    def row(self, steps: int) -> dict[str, float]:
        """Means over the `steps` of an epoch as columns of the history; resets the sums for the next epoch."""
        means = (self.sums / steps).tolist()
        self.sums.zero_()
        return {f"factor_{module}": mean for module, mean in zip(self.modules, means, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """Copies of the state that a resumed run needs."""
        return {name: getattr(self, name).cpu().clone() for name in ("factors", "sums", "taken")}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`."""
        self.factors.copy_(state["factors"])
        self.sums.copy_(state["sums"])
        self.taken.copy_(state["taken"])
