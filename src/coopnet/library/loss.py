"""The loss of on-the-fly native ensembles as a PyTorch module, for any training loop."""

from torch import Tensor, nn

from coopnet.files.errors import CoopNetError
from coopnet.networks.loss import Loss, Teaching, loss, rampup
from coopnet.networks.network import Outputs


class CooperativeLoss(nn.Module):
    """Σ CE(branch) + CE(ensemble) + r(t)·T²·Σ KL(ensemble ‖ branch), the ensemble detached as the teacher.

    Source: ONE (Lan, Zhu and Gong, NeurIPS 2018, arXiv 1806.04606), equations 4 to 6; r(t) = exp(−5 (1 − t/R)²) before
    epoch R, then 1, as in the published code.

    Args:
        temperature: T.
        rampup: R, in epochs; 0 for full weight from the start. `set_epoch` sets the current epoch.
        distillation: `on_the_fly`; `none` leaves out the KL; `mutual`: every branch teaches every other branch (Zhang
            et al., CVPR 2018, arXiv 1706.00384), for networks whose gate is a mean.
        gated: whether the ensemble learns from the labels too; False for a plain one-branch network.
    """

    def __init__(
        self, temperature: float = 3.0, rampup: float = 80, *, distillation: str = "on_the_fly", gated: bool = True
    ):
        super().__init__()
        if temperature <= 0 or rampup < 0:
            raise CoopNetError(f"temperature {temperature} must be above 0, and rampup {rampup} 0 or above")
        if distillation not in ("on_the_fly", "none", "mutual"):
            raise CoopNetError(f"distillation {distillation!r} is not known; choose on_the_fly, none or mutual")
        self.temperature, self.rampup = temperature, rampup
        self.distillation, self.gated = distillation, gated
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, counted from 0; it determines the weight of the distillation."""
        self.epoch = epoch

    @property
    def weight(self) -> float:
        """r(t) of the current epoch."""
        return rampup(self.epoch, self.rampup)

    def parts(self, outputs: Outputs, labels: Tensor) -> Loss:
        """Like `forward`, but with the parts: `total`, `cross_entropy`, and the unweighted `kl`; means over images.

        Raises:
            CoopNetError: `outputs` are not those of a cooperative network.
        """
        if isinstance(outputs, Tensor):
            raise CoopNetError(
                "the loss takes the outputs of a cooperative network, not a tensor of logits; make one with "
                "coopnet.wrap or coopnet.cooperative"
            )
        return loss(outputs, labels, Teaching(self.distillation, self.gated, self.temperature, self.weight))

    def forward(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Branch logits [N, B, C] and gate weights [N, B] of a network, labels [N] → the loss, a scalar."""
        return self.parts(outputs, labels).total

    def extra_repr(self) -> str:
        """The arguments that `print` shows."""
        return f"temperature={self.temperature}, rampup={self.rampup}, distillation={self.distillation!r}"
