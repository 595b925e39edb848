"""Adversarial loss with a discriminator that distinguishes true transmissions from predicted ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.errors import UserError, check_choice
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import predicted
from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.distributed import across_processes, masked_batch_mean, masked_mean

GANKind = Literal["sgan", "rsgan", "rasgan", "lsgan"]
_KINDS = get_args(GANKind)


def generator_loss(kind: GANKind, fake: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Generator part of a GAN loss on logits (``lsgan``: on scores).

    With bce(x, y) the mean binary cross-entropy of logits x against the label y:
    ``sgan``: bce(fake, 1); ``rsgan``: bce(fake - real, 1); ``rasgan`` (Jolicoeur-Martineau, ICLR 2019):
    [bce(real - mean fake, 0) + bce(fake - mean real, 1)] / 2 with means over the batch dimension only, so that it is
    equal to ``rsgan`` at batch size 1; ``lsgan`` (Mao et al., ICCV 2017): the mean of (fake - 1)^2.

    Args:
        kind: see above.
        fake: logits of predictions, (B, 1, h, w).
        real: logits of true images, same shape.
        valid: (B,) bool, samples to include; None for all.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        UserError: for an unknown ``kind``.
        ValueError: if the shapes differ.

    Example:
        >>> same = torch.zeros(2, 1, 1, 1)
        >>> generator_loss("rasgan", same, same)
        tensor(0.6931)
    """
    fake, real, valid = _prepared(kind, fake, real, valid)
    if kind == "lsgan":
        return _square(fake, 1, valid)
    if kind == "sgan":
        return _bce(fake, 1, valid)
    if kind == "rsgan":
        return _bce(fake - real, 1, valid)
    mean_fake, mean_real = masked_batch_mean(fake, valid), masked_batch_mean(real, valid)
    return (_bce(real - mean_fake, 0, valid) + _bce(fake - mean_real, 1, valid)) / 2


def discriminator_loss(kind: GANKind, fake: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Discriminator part of a GAN loss on logits (``lsgan``: on scores).

    ``sgan``: [bce(fake, 0) + bce(real, 1)] / 2; ``rsgan``: bce(real - fake, 1); ``rasgan``:
    [bce(real - mean fake, 1) + bce(fake - mean real, 0)] / 2; ``lsgan``: half the sum of the means of (real - 1)^2 and
    of fake^2.

    Arguments, result and errors as for :func:`generator_loss`.
    """
    fake, real, valid = _prepared(kind, fake, real, valid)
    if kind == "lsgan":
        return (_square(fake, 0, valid) + _square(real, 1, valid)) / 2
    if kind == "sgan":
        return (_bce(fake, 0, valid) + _bce(real, 1, valid)) / 2
    if kind == "rsgan":
        return _bce(real - fake, 1, valid)
    mean_fake, mean_real = masked_batch_mean(fake, valid), masked_batch_mean(real, valid)
    return (_bce(real - mean_fake, 1, valid) + _bce(fake - mean_real, 0, valid)) / 2


def _prepared(kind: str, fake: Tensor, real: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    check_choice("kind of the adversarial loss", kind, _KINDS)
    check_same_shape(fake=fake, real=real)
    if valid is None:
        valid = fake.new_ones(len(fake), dtype=torch.bool)
    return full_precision(fake), full_precision(real), valid


def _square(scores: Tensor, truth: int, valid: Tensor) -> Tensor:
    return masked_mean((scores - truth).square(), valid)


def _bce(logits: Tensor, truth: int, valid: Tensor) -> Tensor:
    wanted = torch.full_like(logits, truth)
    return masked_mean(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), valid)


class AdversarialLoss(LossTerm):
    """Generator loss on the predicted transmission, together with the discriminator and its loss.

    The discriminator is a submodule and hence part of the checkpoint, but ``forward`` does not compute gradients of its
    parameters. Both losses exclude samples without a true transmission.

    In the released program, the discriminator's loss is also multiplied by the term's weight (lambda_gan = 0.01) before
    its backward pass; here, as for all weights, that is up to the caller of :meth:`discriminator_loss`.

    Args:
        discriminator: (B, 3, H, W) -> logits (B, 1, h, w).
        kind: ``sgan``, ``rsgan``, ``rasgan`` or ``lsgan``, see :func:`generator_loss`.
        candidates: predicted layers given to the discriminator as fakes, one list per training phase (the last one
            applies to all later phases). With several layers, its loss is the smallest of the losses of each layer
            against the true transmission, as in the second stage of YTMT's program.
        unaligned: whether a transmission taken from a slightly different position
            (``batch["unaligned_transmission"]``) also counts as a true one, as in ERRNet; a discriminator does not
            need alignment.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``kind`` or candidate, or a phase without candidates.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        kind: GANKind = "rasgan",
        candidates: Sequence[Sequence[Layer]] = (("transmission",),),
        unaligned: bool = False,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        if not candidates or not all(candidates):
            raise UserError("candidates of the adversarial loss must name at least one layer for each training phase.")
        self.discriminator = discriminator
        self.kind = kind
        self.candidates = tuple(tuple(of_phase) for of_phase in candidates)
        self.unaligned = unaligned

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the generator part, an unweighted scalar >= 0 without gradients for the discriminator's parameters."""
        fake, (real, valid) = predicted(outputs, "transmission"), self._truth(batch)
        check_same_shape(prediction=fake, target=real)
        # Detached parameters rather than toggling requires_grad, so that nothing must be restored after an exception.
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        # The logits of the true images need no detach: with frozen parameters, they depend on nothing trainable.
        logits_fake, logits_real = (
            cast(Tensor, functional_call(self.discriminator, frozen, (image,))) for image in (fake, real)
        )
        return generator_loss(self.kind, logits_fake, logits_real, valid)

    def discriminator_loss(self, outputs: Outputs, batch: Batch, phase: int = 0) -> Tensor:
        """Compute the discriminator part; no gradient reaches the outputs.

        Args:
            outputs: network outputs.
            batch: with the ground truth.
            phase: training phase (0-based), which selects the candidates.

        Returns:
            Unweighted scalar >= 0; zero if no transmission is known.

        Raises:
            UserError: if a candidate is missing from the outputs.
            ValueError: if the shapes of prediction and ground truth differ.
        """
        candidates = self.candidates[min(phase, len(self.candidates) - 1)]
        real, valid = self._truth(batch)
        logits_real = self.discriminator(real)
        smallest: Tensor | None = None
        for layer in candidates:
            fake = predicted(outputs, layer).detach()
            check_same_shape(prediction=fake, target=real)
            loss = discriminator_loss(self.kind, self.discriminator(fake), logits_real, valid)
            if smallest is None:
                smallest = loss
                continue
            # All processes must make the same choice, hence compare the values over the whole batch.
            chosen = across_processes(smallest.detach()) <= across_processes(loss.detach())
            smallest = torch.where(chosen, smallest, loss)
        assert smallest is not None
        return smallest

    def _truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """True images for the discriminator, (B, 3, H, W), and the samples that have one, (B,) bool."""
        real, valid = batch["transmission"], batch["has_transmission"]
        if not self.unaligned or "has_unaligned" not in batch:
            return real, valid
        elsewhere = batch["has_unaligned"] & ~valid
        return torch.where(elsewhere[:, None, None, None], batch["unaligned_transmission"], real), valid | elsewhere
