"""LPIPS, an optional extra: the network it looks through comes with torchvision, which nothing else here needs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, cast

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.metrics.images import ImageMetric


class PerceptualDistance(ImageMetric):
    """LPIPS, lower is better (Zhang et al., CVPR 2018), by torchmetrics' implementation.

    Args:
        net: the network it looks through.
        **kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        UserError: if torchvision is not installed, or its ImageNet weights are neither cached nor to be had.
    """

    higher_is_better = False
    title = "LPIPS"

    def __init__(self, net: Literal["alex", "vgg", "squeeze"] = "alex", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if find_spec("torchvision") is None:
            raise UserError(
                "LPIPS looks through a network of torchvision, which is not installed: pip install torchvision (a "
                "build that fits this torch), or leave lpips out of protocol.metrics."
            )
        from torchmetrics.functional.image.lpips import _LPIPS

        try:
            self.network: nn.Module = _LPIPS(pretrained=True, net=net)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"LPIPS needs torchvision's ImageNet weights of '{net}', which are not cached and cannot be downloaded "
                f"({error}): connect once, or leave lpips out of protocol.metrics."
            ) from error

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), from 0 on. The network sees float32."""
        distances = self.network(preds.float(), target.float(), normalize=True)
        return cast(Tensor, distances).flatten().double()
