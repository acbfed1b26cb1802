"""The loss of on-the-fly native ensembles as a PyTorch module, for anybody's training loop."""

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
        rampup: R, in epochs; 0 for full weight throughout. Tell the epoch by `set_epoch`.
        distillation: `on_the_fly`; `none` leaves the KL out; `mutual`: every branch teaches every other (Zhang et al.,
            CVPR 2018, arXiv 1706.00384), for gates that are a mean.
        gated: whether the ensemble learns from the labels too; False for a plain network of one branch.
    """

    def __init__(
        self, temperature: float = 3.0, rampup: float = 80, *, distillation: str = "on_the_fly", gated: bool = True
    ):
        super().__init__()
        if temperature <= 0 or rampup < 0:
            raise CoopNetError(f"temperature {temperature} has to be above 0, and rampup {rampup} not below")
        if distillation not in ("on_the_fly", "none", "mutual"):
            raise CoopNetError(f"distillation {distillation!r} is not known; choose on_the_fly, none or mutual")
        self.temperature, self.rampup = temperature, rampup
        self.distillation, self.gated = distillation, gated
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, counted from 0; it decides the weight of the distillation."""
        self.epoch = epoch

    @property
    def weight(self) -> float:
        """r(t), of this epoch."""
        return rampup(self.epoch, self.rampup)

    def parts(self, outputs: Outputs, labels: Tensor) -> Loss:
        """As `forward`, with its parts: `total`, `cross_entropy`, and `kl` before its weight; means over images."""
        return loss(outputs, labels, Teaching(self.distillation, self.gated, self.temperature, self.weight))

    def forward(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Branch logits [N, B, C] and gate weights [N, B] of a network, labels [N] → what is minimised, a scalar."""
        return self.parts(outputs, labels).total

    def extra_repr(self) -> str:
        """What `print` says."""
        return f"temperature={self.temperature}, rampup={self.rampup}, distillation={self.distillation!r}"
