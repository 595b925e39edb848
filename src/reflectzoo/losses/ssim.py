"""Structural similarity: of images (SSIM), and of gradients by its structure part alone (SI).

Both look through the window that CoRRN's program uses: an 11x11 Gaussian of sigma 1.5 that moves over the whole image,
zeros outside of it included. Other libraries reflect or cut the border, so their values differ near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import (
    Layer,
    UnknownReflection,
    check_choice,
    check_same_shape,
    full_precision,
    layer_pair,
)
from reflectzoo.losses.reduce import masked_mean
from reflectzoo.losses.statistic import luminance, sobel

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim_map(prediction: Tensor, target: Tensor) -> Tensor:
    """SSIM of every pixel of every channel.

    Wang et al., TIP 2004, with C1 = 0.01^2, C2 = 0.03^2; CoRRN, TPAMI 2019, Eq. (4).

    Args:
        prediction: (B, C, H, W), values of about [0, 1]; negative ones are taken as they are.
        target: same shape.

    Returns:
        (B, C, H, W), at most 1.

    Raises:
        ValueError: if the shapes differ.
    """
    mean_p, mean_t, variances, covariance = _moments(prediction, target)
    luminance_part = (2 * mean_p * mean_t + _C1) / (mean_p.square() + mean_t.square() + _C1)
    return luminance_part * (2 * covariance + _C2) / (variances + _C2)


def structure_map(prediction: Tensor, target: Tensor) -> Tensor:
    """SI of every pixel of every channel: SSIM without its luminance part.

    CoRRN, TPAMI 2019, Eq. (7); arguments, result and errors as for :func:`ssim_map`. Blind to a constant offset, but
    not to contrast.
    """
    _mean_p, _mean_t, variances, covariance = _moments(prediction, target)
    return (2 * covariance + _C2) / (variances + _C2)


def ssim_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - mean SSIM over the valid samples; CoRRN, TPAMI 2019, Eq. (5).

    Args:
        prediction: (B, C, H, W), values of about [0, 1].
        target: same shape.
        valid: (B,) bool, the samples that count; all when None.

    Returns:
        Scalar in [0, 2]; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.rand(1, 3, 16, 16)
        >>> ssim_loss(image, image).item() < 1e-6 < ssim_loss(image, 0.5 * image).item()
        True
    """
    return masked_mean(1 - ssim_map(prediction, target), _or_all(valid, prediction))


def structure_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - mean SI over the valid samples; CoRRN, TPAMI 2019, Eq. (6). Arguments and errors as for :func:`ssim_loss`."""
    return masked_mean(1 - structure_map(prediction, target), _or_all(valid, prediction))


def gradient_truth(transmission: Tensor, scale: float = 1.0) -> Tensor:
    """What the gradient decoder has to find: the Sobel magnitude of the grey transmission, border pixels repeated.

    CoRRN, TPAMI 2019, Fig. 5; with ``scale=1`` as the released program's data have it (MATLAB's ``imgradientxy``).

    Args:
        transmission: (B, 3, H, W) in [0, 1].
        scale: factor. An upright step edge of height 1 has the magnitude 4 before it.

    Returns:
        (B, 1, H, W) >= 0.
    """
    along_x, along_y = sobel(luminance(transmission), border="replicate")
    return scale * torch.hypot(along_x, along_y)


class SSIMLoss(LossTerm):
    """:func:`ssim_loss` of one layer.

    Args:
        layer: ``transmission`` or ``reflection``.
        unknown_reflection: for real pairs, whose reflection nobody saw. ``residual``: the target is mixture -
            transmission; ``skip``: leave such samples out.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``layer`` or ``unknown_reflection``.
    """

    def __init__(
        self,
        layer: Layer = "transmission",
        unknown_reflection: UnknownReflection = "residual",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        check_choice("layer of an SSIM loss", layer, ("transmission", "reflection"))
        check_choice("unknown_reflection of an SSIM loss", unknown_reflection, ("residual", "skip"))
        self.layer = layer
        self.unknown_reflection = unknown_reflection

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar in [0, 2]."""
        return ssim_loss(*layer_pair(outputs, batch, self.layer, self.unknown_reflection))


class StructureLoss(LossTerm):
    """:func:`structure_loss` of a layer, or of the gradient that some networks predict beside it.

    Args:
        of: ``gradient`` compares ``aux["gradient"]`` with :func:`gradient_truth`; ``transmission`` and ``reflection``
            compare that layer with its truth.
        scale: of the gradient's truth. 1 is the program's, reaches 5.7 and lets a prediction below 1 saturate at strong
            edges; 0.25 brings the step from black to white to 1.
        unknown_reflection: see :class:`SSIMLoss`.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``of`` or ``unknown_reflection``.
    """

    def __init__(
        self,
        of: Literal["gradient", "transmission", "reflection"] = "gradient",
        scale: float = 1.0,
        unknown_reflection: UnknownReflection = "residual",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        check_choice("of in a structure loss", of, ("gradient", "transmission", "reflection"))
        check_choice("unknown_reflection of a structure loss", unknown_reflection, ("residual", "skip"))
        self.of = of
        self.scale = scale
        self.unknown_reflection = unknown_reflection

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar in [0, 2]."""
        if self.of != "gradient":
            return structure_loss(*layer_pair(outputs, batch, self.of, self.unknown_reflection))
        if "gradient" not in outputs.get("aux", {}):
            raise UserError(
                "The loss has a term on the transmission's gradient, but this network does not predict one: take that "
                "term out (~loss.terms.<name>) or choose another loss=."
            )
        truth = gradient_truth(full_precision(batch["transmission"]), self.scale)
        return structure_loss(outputs["aux"]["gradient"], truth, batch["has_transmission"])


def _moments(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Local means of both, the sum of their variances, and their covariance."""
    check_same_shape(prediction=prediction, target=target)
    p, t = full_precision(prediction), full_precision(target)
    # The two variances are needed as a sum only.
    mean_p, mean_t, squares, product = _blur(torch.stack((p, t, p * p + t * t, p * t))).unbind()
    return mean_p, mean_t, squares - mean_p.square() - mean_t.square(), product - mean_p * mean_t


def _blur(images: Tensor) -> Tensor:
    """Mean under the window around each pixel of (..., H, W), zeros outside."""
    taps = window(images.dtype, images.device)
    # As channels of one image: on a CPU several times faster, there and back, than as images of one channel.
    flat = images.reshape(1, -1, *images.shape[-2:])
    count = flat.shape[1]
    with torch.autocast(images.device.type, enabled=False):
        rows = F.conv2d(flat, taps.view(1, 1, -1, 1).expand(count, -1, -1, -1), padding=(_WINDOW // 2, 0), groups=count)
        columns = taps.view(1, 1, 1, -1).expand(count, -1, -1, -1)
        return F.conv2d(rows, columns, padding=(0, _WINDOW // 2), groups=count).view_as(images)


@lru_cache(maxsize=8)
def window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """One axis of the window, (11,), adding up to 1."""
    # The cache outlives the caller, who may be in inference mode; its tensors could not be used in training later.
    with torch.inference_mode(False):
        places = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
        taps = torch.exp(-places.square() / (2 * _SIGMA**2))
        return (taps / taps.sum()).to(device, dtype)


def _or_all(valid: Tensor | None, images: Tensor) -> Tensor:
    return images.new_ones(len(images), dtype=torch.bool) if valid is None else valid
