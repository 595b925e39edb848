"""Structure index (SI), and SSIM and SI of marked regions, as CoRRN reports them.

Wan et al., TPAMI 2019, Tables 1 and 3. The authors released no code for their scores; these are the maps of their
losses (11x11 Gaussian window of sigma 1.5, zeros outside the image, C1 = 0.01^2, C2 = 0.03^2), averaged. Where a
paper's SSIM comes from another library, its window differs, and so do its values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from reflectzoo.losses.ssim import ssim_map, structure_map
from reflectzoo.losses.statistic import luminance


class _MeanOfMap(Metric):
    """Mean over images of the mean of a map, over all pixels or over a region."""

    is_differentiable = True
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, quality: Callable[[Tensor, Tensor], Tensor], grey: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.quality = quality
        self.grey = grey
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def _add(self, preds: Tensor, target: Tensor, mask: Tensor | None) -> None:
        if self.grey:
            preds, target = luminance(preds), luminance(target)
        quality = self.quality(preds, target).mean(dim=1)
        if mask is None:
            self.total += quality.mean(dim=(1, 2)).sum()
            self.count += len(quality)
            return
        weights = _region(mask, quality)
        pixels = weights.sum(dim=(1, 2))
        marked = pixels > 0
        self.total += ((quality * weights).sum(dim=(1, 2))[marked] / pixels[marked]).sum()
        self.count += marked.sum()

    def compute(self) -> Tensor:
        """The mean over all images so far (those with a region); NaN if there was none."""
        return self.total / self.count


class StructureIndex(_MeanOfMap):
    """SI: SSIM without its luminance part; 1 for images that differ by a constant.

    CoRRN, TPAMI 2019, Eq. (7); Wan et al., ICCV 2017.

    Args:
        grey: compare grey values (0.2989 R + 0.5870 G + 0.1140 B) instead of the mean over colour channels.
        **kwargs: see :class:`torchmetrics.Metric`.

    Example:
        >>> metric = StructureIndex()
        >>> image = torch.rand(1, 3, 16, 16)
        >>> metric(image, image)
        tensor(1.)
    """

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(structure_map, grey, **kwargs)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images, (B, 3, H, W) in [0, 1] each (with ``grey=False`` any number of channels).

        Raises:
            ValueError: if the shapes differ.
        """
        self._add(preds, target, None)


class _Regional(_MeanOfMap):
    def update(self, preds: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add images.

        Args:
            preds: (B, 3, H, W) in [0, 1].
            target: same shape.
            mask: (B, H, W) or (B, 1, H, W), bool (or numbers, where all but 0 count): the region that matters, in CoRRN
                the one that reflections dominate. Images without a region do not count.

        Raises:
            ValueError: if the shapes differ.
        """
        self._add(preds, target, mask)


class RegionalSSIM(_Regional):
    """SSIMr: mean of the SSIM map over a region, image by image.

    CoRRN, TPAMI 2019, Sec. 5. The paper's regions were marked by hand and are not public. Windows around pixels at the
    rim of a region look beyond it.

    Args:
        grey: as for :class:`StructureIndex`.
        **kwargs: see :class:`torchmetrics.Metric`.

    Example:
        >>> metric, image = RegionalSSIM(), torch.rand(1, 3, 16, 16)
        >>> metric(image, image, image[:, 0] > 0.5)
        tensor(1.)
    """

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(ssim_map, grey, **kwargs)


class RegionalSI(_Regional):
    """SIr: mean of the SI map over a region, image by image; otherwise as :class:`RegionalSSIM`."""

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(structure_map, grey, **kwargs)


def _region(mask: Tensor, quality: Tensor) -> Tensor:
    flat = mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask
    if flat.shape != quality.shape:
        raise ValueError(
            f"the mask must be (B, H, W) or (B, 1, H, W) with the images' size, got {tuple(mask.shape)} for images of "
            f"{tuple(quality.shape)}"
        )
    return (flat != 0).to(quality)
