"""What a student must learn from its teacher: the representation itself, and to be taken for the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import aux_output
from reflectzoo.losses.pixel import l1_loss
from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.distributed import masked_mean


def _pair(outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """The student's representation, the teacher's without a gradient, and which samples have one."""
    student, taught = aux_output(outputs, "representation"), aux_output(outputs, "taught")
    check_same_shape(student=student, teacher=taught)
    return student, taught.detach(), aux_output(outputs, "has_taught")


class TransferLoss(LossTerm):
    """Mean absolute difference of the student's representation and the teacher's.

    Zheng et al., ICCV 2021, Eq. (7), as a mean. Reads ``aux["representation"]``, ``aux["taught"]``, both (B, R, h, w),
    and ``aux["has_taught"]`` (B,) bool; samples that had no teacher are left out.
    """

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0.

        Raises:
            UserError: if nobody taught this network.
        """
        return l1_loss(*_pair(outputs))


def least_squares(logits: Tensor, wanted: float, valid: Tensor | None = None) -> Tensor:
    """Mean squared distance of a discriminator's outputs from what they should be.

    Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017.

    Args:
        logits: (B, 1, h, w).
        wanted: 1 for true, 0 for false.
        valid: (B,) bool, the samples that count; all when None.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Example:
        >>> least_squares(torch.full((1, 1, 1, 1), 0.5), 1.0)
        tensor(0.2500)
    """
    if valid is None:
        valid = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return masked_mean((full_precision(logits) - wanted).square(), valid)


class _NotMade(nn.Module):
    """Stands for a discriminator while nobody has said how many channels it is to judge."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        raise UserError(
            "The loss has a discriminator of a teacher's representations, but this network has none: remove that "
            "term (~loss.terms.<name>) or choose another loss=."
        )


class RepresentationAdversarialLoss(AdversarialLoss):
    """A least-squares GAN whose true samples are the teacher's representations, whose false ones the student's.

    Zheng et al., ICCV 2021, Eq. (8) and (9). Reads what :class:`TransferLoss` reads.

    Args:
        discriminator: makes, for a number of channels R, a network (B, R, h, w) -> outputs (B, 1, h', w') without a
            sigmoid; or such a network.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.
    """

    def __init__(
        self,
        discriminator: nn.Module | Callable[[int], nn.Module],
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        made = discriminator if isinstance(discriminator, nn.Module) else None
        super().__init__(made or _NotMade(), weight=weight, start_epoch=start_epoch)
        self._make = discriminator if made is None else None

    def make_discriminator(self, channels: int) -> None:
        """Make the discriminator of representations of so many channels, unless there is one."""
        if self._make is not None:
            self.discriminator, self._make = self._make(channels), None

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The student's part, Eq. (8): an unweighted scalar >= 0, without a gradient for the discriminator."""
        student, _, valid = _pair(outputs)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return least_squares(cast(Tensor, functional_call(self.discriminator, frozen, (student,))), 1.0, valid)

    def discriminator_loss(self, outputs: Outputs, batch: Batch, phase: int = 0) -> Tensor:
        """The discriminator's part, Eq. (9): an unweighted scalar >= 0; no gradient reaches the representations."""
        student, taught, valid = _pair(outputs)
        judged = [self.discriminator(each.detach()) for each in (student, taught)]
        return least_squares(judged[0], 0.0, valid) + least_squares(judged[1], 1.0, valid)
