"""View synthesis loss: a motion is right if it maps one view onto another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import aux_output
from reflectzoo.methods.dynamics.decoupling import frame_truth
from reflectzoo.methods.dynamics.warp import inside, warp
from reflectzoo.ops.checks import full_precision
from reflectzoo.ops.distributed import masked_mean


def view_synthesis_loss(
    centre: Tensor, neighbour: Tensor, motion: Tensor, valid: Tensor | None = None, relative: bool = False
) -> Tensor:
    """Mean squared error between the centre view and the neighbour warped onto it.

    Zheng et al., ICCV 2021, one summand of Eq. (3), as a mean instead of a norm, whose value would depend on the
    image's size. Pixels whose motion leads outside the image contribute zero error.

    Args:
        centre: (B, C, H, W).
        neighbour: same shape.
        motion: (B, 2, H, W) in pixels, see :func:`~reflectzoo.methods.dynamics.warp.warp`.
        valid: (B,) bool, the samples to include; all if None.
        relative: divide each sample's error by the variance of its centre view, so that faint views weigh as much as
            strong ones, and the loss cannot be reduced by shrinking features.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes do not match.
    """
    if valid is None:
        valid = torch.ones(len(centre), dtype=torch.bool, device=centre.device)
    centre, neighbour = full_precision(centre), full_precision(neighbour)
    error = (centre - warp(neighbour, motion)).square() * inside(motion)
    if relative:
        error = error / (centre.var(dim=(2, 3), correction=0).mean(dim=1)[:, None, None, None] + 1e-4)
    return masked_mean(error, valid)


class ViewSynthesisLoss(LossTerm):
    """Sum of :func:`view_synthesis_loss` over both layers and all neighbours (Eq. (3), its last line with t, t+1).

    For sequences only; still pictures are left out.

    Args:
        of: ``features`` compares the split features, as in the paper; ``layers`` compares the true layers where they
            are known (synthetic sequences), a loss that cannot be reduced by making features empty.
        scales: for ``layers``: sides of the blocks over which images and motions are averaged before the comparison;
            coarse ones allow large motions to be found. The losses of all scales are averaged.
        relative: see :func:`view_synthesis_loss`.
        detach: whether to detach the features, so that this loss trains only the motion.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an invalid ``of`` or empty ``scales``.
    """

    def __init__(
        self,
        of: Literal["features", "layers"] = "features",
        scales: Annotated[Sequence[Count], MinLen(1)] = (8, 4, 2),
        relative: bool = False,
        detach: bool = False,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.of = of
        self.scales = tuple(scales)
        self.relative = relative
        self.detach = detach

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0.

        Raises:
            UserError: if the network does not estimate motion.
        """
        total = outputs["transmission"].new_zeros((), dtype=torch.float32)
        moves: dict[Layer, Tensor] = aux_output(outputs, "flow" if self.of == "features" else "motion")
        if "frames" not in batch:
            return total
        for layer, motion in moves.items():
            frames = motion.shape[1] + 1
            others = [index for index in range(frames) if index != frames // 2]
            if self.of == "features":
                views: Tensor = aux_output(outputs, "features")[layer]
                views = views.detach() if self.detach else views
                known = batch["has_frames"][:, None].expand(-1, frames)
            else:
                views, known = frame_truth(batch, layer, frames)
            for index, other in enumerate(others):
                valid = known[:, frames // 2] & known[:, other]
                total = total + self._summand(views[:, frames // 2], views[:, other], motion[:, index], valid)
        return total

    def _summand(self, centre: Tensor, neighbour: Tensor, motion: Tensor, valid: Tensor) -> Tensor:
        if self.of == "features":
            return view_synthesis_loss(centre, neighbour, motion, valid, self.relative)
        total = motion.new_zeros(())
        for scale in self.scales:
            small, moved, field = (
                F.avg_pool2d(full_precision(each), scale, ceil_mode=True) for each in (centre, neighbour, motion)
            )
            total = total + view_synthesis_loss(small, moved, field / scale, valid, self.relative)
        return total / len(self.scales)
