"""Feature decoupling loss: features split by layer must allow the layers to be decoded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import aux_output
from reflectzoo.losses.pixel import gradient_loss, l1_loss
from reflectzoo.ops.checks import full_precision


def averaged_down(images: Tensor, height: int, width: int) -> Tensor:
    """Downsample images by averaging to the size of a network's reduced outputs.

    Args:
        images: (..., H, W).
        height: height of the outputs, H divided by an integer and rounded up.
        width: width of the outputs, W divided by the same integer and rounded up.

    Returns:
        (..., height, width); blocks that extend beyond the border are means of the pixels inside.
    """
    factor = max(-(-images.shape[-2] // height), -(-images.shape[-1] // width))
    if factor == 1:
        return images
    flat = images.flatten(0, -4) if images.ndim > 4 else images
    pooled = F.avg_pool2d(full_precision(flat), factor, ceil_mode=True, count_include_pad=False)
    return pooled.reshape(*images.shape[:-2], height, width)


def frame_truth(batch: Batch, layer: Layer, frames: int) -> tuple[Tensor, Tensor]:
    """The ground truth of one layer in every frame, as far as it is known.

    Args:
        batch: with or without sequences; without, or for a still picture, only the centre frame is known.
        layer: the layer.
        frames: number of frames of the network's input.

    Returns:
        (B, N, 3, H, W), zeros where unknown, and (B, N) bool.
    """
    still, known = batch[layer], batch[f"has_{layer}"]  # type: ignore[literal-required]
    key = f"frame_{layer}s"
    if key in batch:
        truth, valid = batch[key].clone(), batch[f"has_frame_{layer}"].clone()  # type: ignore[literal-required]
    else:
        truth = torch.zeros_like(still)[:, None].repeat(1, frames, 1, 1, 1)
        valid = torch.zeros_like(known)[:, None].repeat(1, frames)
    truth[:, frames // 2], valid[:, frames // 2] = still, known
    return truth, valid


class DecouplingLoss(LossTerm):
    """Feature decoupling: error of the layers decoded from the split features, in values and gradients.

    Zheng et al., ICCV 2021, Eq. (1) and (2): the sum over all frames and both layers of the mean absolute error plus
    that of the forward differences; unknown layers are left out (of a captured sequence only the centre frame's
    transmission is known). The ground truth is averaged down to the size of the decoders' outputs.

    Reads ``aux["frame_transmissions"]`` and ``aux["frame_reflections"]``, (B, N, 3, h, w), about [0, 1].
    """

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0.

        Raises:
            UserError: if the network does not decode layers.
        """
        total = outputs["transmission"].new_zeros((), dtype=torch.float32)
        layers: tuple[Layer, ...] = ("transmission", "reflection")
        for layer in layers:
            decoded: Tensor = aux_output(outputs, f"frame_{layer}s")
            truth, valid = frame_truth(batch, layer, decoded.shape[1])
            truth = averaged_down(truth, *decoded.shape[-2:])
            for index in range(decoded.shape[1]):
                pair = decoded[:, index], truth[:, index], valid[:, index]
                total = total + l1_loss(*pair) + gradient_loss(*pair)
        return total
