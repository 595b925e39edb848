"""Losses by which the student learns the teacher's representation: directly, and against a discriminator."""

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
    """The student's representation, the teacher's (detached), and the mask of samples that have the latter."""
    student, taught = aux_output(outputs, "representation"), aux_output(outputs, "taught")
    check_same_shape(student=student, teacher=taught)
    return student, taught.detach(), aux_output(outputs, "has_taught")


class TransferLoss(LossTerm):
    """Mean absolute difference between the student's and the teacher's representation.

    Zheng et al., ICCV 2021, Eq. (7), as a mean. Reads ``aux["representation"]``, ``aux["taught"]``, both (B, R, h, w),
    and ``aux["has_taught"]`` (B,) bool; samples without a teacher's representation are left out.
    """

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0.

        Raises:
            UserError: if the outputs lack the student's or the teacher's representation.
        """
        return l1_loss(*_pair(outputs))


def least_squares(logits: Tensor, wanted: float, valid: Tensor | None = None) -> Tensor:
    """Mean squared difference between a discriminator's outputs and their target value.

    Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017.

    Args:
        logits: (B, 1, h, w).
        wanted: 1 for true, 0 for fake samples.
        valid: (B,) bool, the samples to include; all if None.

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
    """Placeholder of a discriminator whose number of input channels is not known yet."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        raise UserError(
            "The loss has a discriminator of a teacher's representations, but this network has none: remove that "
            "term (~loss.terms.<name>) or choose another loss=."
        )


class RepresentationAdversarialLoss(AdversarialLoss):
    """Least-squares GAN whose true samples are the teacher's representations and whose fakes are the student's.

    Zheng et al., ICCV 2021, Eq. (8) and (9). Reads the same outputs as :class:`TransferLoss`.

    Args:
        discriminator: a network (B, R, h, w) -> (B, 1, h', w') without a sigmoid, or a function that makes one for R
            channels.
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
        """Make the discriminator for representations with ``channels`` channels; idempotent."""
        if self._make is not None:
            self.discriminator, self._make = self._make(channels), None

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The student's loss, Eq. (8): an unweighted scalar >= 0, without a gradient for the discriminator."""
        student, _, valid = _pair(outputs)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return least_squares(cast(Tensor, functional_call(self.discriminator, frozen, (student,))), 1.0, valid)

    def discriminator_loss(self, outputs: Outputs, batch: Batch, phase: int = 0) -> Tensor:
        """The discriminator's loss, Eq. (9): an unweighted scalar >= 0, without a gradient for the representations."""
        student, taught, valid = _pair(outputs)
        judged = [self.discriminator(each.detach()) for each in (student, taught)]
        return least_squares(judged[0], 0.0, valid) + least_squares(judged[1], 1.0, valid)
