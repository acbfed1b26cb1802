"""The loss of on-the-fly native ensembles as a PyTorch module, for any training loop."""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coopnet.files.errors import CoopNetError
from coopnet.library.checks import check_choice
from coopnet.networks.loss import Loss, Teaching, loss, rampup
from coopnet.networks.network import Outputs

log = logging.getLogger(__name__)


class CooperativeLoss(nn.Module):
    """Σ CE(branch) + CE(ensemble) + r(t)·T²·Σ KL(ensemble ‖ branch), the ensemble detached as the teacher.

    Source: ONE (Lan, Zhu and Gong, NeurIPS 2018, arXiv 1806.04606), equations 4 to 6; r(t) = exp(−5 (1 − t/R)²) before
    epoch R, then 1, as in the published code.

    Args:
        temperature: T.
        rampup: R, in epochs; 0 for full weight from the start. In the paper it is about a quarter of all epochs.
            `set_epoch` sets the current epoch.
        distillation: `on_the_fly`; `none` leaves out the KL; `mutual`: every branch teaches every other branch (Zhang
            et al., CVPR 2018, arXiv 1706.00384), for networks whose gate is a mean.
        gated: whether there is an ensemble that learns from the labels, and teaches; False for a plain one-branch
            network. `mutual` has none.
        label_smoothing: ε, as for `torch.nn.CrossEntropyLoss`.
    """

    def __init__(
        self,
        temperature: float = 3.0,
        rampup: float = 80,
        *,
        distillation: str = "on_the_fly",
        gated: bool = True,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if temperature <= 0 or rampup < 0:
            raise CoopNetError(f"temperature {temperature} must be above 0, and rampup {rampup} 0 or above")
        check_choice("distillation", distillation, ("on_the_fly", "none", "mutual"))
        if not 0 <= label_smoothing < 1:
            raise CoopNetError(f"label_smoothing {label_smoothing} must be 0 or above, and below 1")
        self.temperature, self.rampup = temperature, rampup
        self.distillation, self.gated, self.label_smoothing = distillation, gated, label_smoothing
        self.epoch, self._was_set = 0, False

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, counted from 0; it determines the weight of the distillation."""
        self.epoch, self._was_set = epoch, True

    @property
    def weight(self) -> float:
        """r(t) of the current epoch."""
        return rampup(self.epoch, self.rampup)

    def parts(self, outputs: Outputs, labels: Tensor) -> Loss:
        """Like `forward`, but with the parts: `total`, `cross_entropy`, and the unweighted `kl`; means over images.

        Raises:
            CoopNetError: `outputs` are not those of a cooperative network, labels of another shape or type, or mutual
                learning with one branch or a gate that it would not train.
        """
        if not (hasattr(outputs, "branches") and hasattr(outputs, "gate")):
            raise CoopNetError(
                f"the loss takes the outputs of a cooperative network, not a {type(outputs).__name__}; make one with "
                "coopnet.wrap or coopnet.cooperative"
            )
        if self.distillation == "mutual" and (outputs.branches.shape[1] < 2 or outputs.gate.requires_grad):
            raise CoopNetError("mutual learning needs two branches or more and trains no gate; use gate='mean'")
        distils = self.distillation == "mutual" or (self.distillation == "on_the_fly" and self.gated)
        forgotten = distils and self.rampup and not self._was_set and outputs.branches.requires_grad
        if forgotten and not torch.compiler.is_compiling():
            self._was_set = True
            log.warning(
                "the distillation has the weight %.3f of epoch 0 until set_epoch is called, once at the beginning of "
                "each epoch",
                self.weight,
            )
        teaching = Teaching(self.distillation, self.gated, self.temperature, self.weight)
        return loss(outputs, self._targets(outputs, labels), teaching)

    def _targets(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Class indices [N], or probabilities [N, C] if they were passed or are smoothed."""
        if not isinstance(labels, Tensor):
            raise CoopNetError(f"labels are a {type(labels).__name__}; pass a tensor, as torch.as_tensor makes it")
        images, _, classes = outputs.branches.shape
        indices = labels.shape == (images,) and labels.dtype != torch.bool and not labels.is_floating_point()
        if not indices and not (labels.shape == (images, classes) and labels.is_floating_point()):
            raise CoopNetError(
                f"labels are {labels.dtype} of shape {list(labels.shape)}; for these outputs pass class indices "
                f"[{images}], or probabilities [{images}, {classes}] as floating-point numbers"
            )
        if indices and labels.device.type == "cpu" and not torch.compiler.is_compiling():  # a GPU would have to wait
            least, most = torch.aminmax(labels) if images else (0, 0)
            if least < 0 or most >= classes:
                raise CoopNetError(
                    f"labels are {int(least)} to {int(most)}; those of {classes} classes are 0 to {classes - 1}"
                )
        if indices and not self.label_smoothing:
            return labels.long()
        targets = F.one_hot(labels.long(), classes).to(outputs.branches.dtype) if indices else labels
        return (1 - self.label_smoothing) * targets + self.label_smoothing / classes

    def forward(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            outputs: of a network: branch logits [N, B, C] and gate weights [N, B].
            labels: class indices [N] from 0 to C − 1 (checked on a CPU only), or probabilities [N, C], as mixup gives.
        """
        return self.parts(outputs, labels).total

    def extra_repr(self) -> str:
        """The arguments that `print` shows."""
        return f"temperature={self.temperature}, rampup={self.rampup}, distillation={self.distillation!r}"
