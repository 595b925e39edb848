"""Metrics of the motions and decoupled layers that a network for frame sequences estimates."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.methods.dynamics.decoupling import averaged_down, frame_truth
from reflectzoo.methods.dynamics.warp import inside
from reflectzoo.ops.distributed import across_any

_LAYERS: tuple[Layer, ...] = ("transmission", "reflection")


def endpoint_error(motion: Tensor, true: Tensor) -> Tensor:
    """Mean endpoint error of a motion field against a uniform true motion.

    Pixels that leave the image are ignored, since no network could know where they went.

    Args:
        motion: (B, 2, H, W) in pixels, to the right and downwards.
        true: (B, 2), the same for all pixels.

    Returns:
        (B,) in pixels; NaN if all pixels leave the image.
    """
    whole = true[:, :, None, None].expand_as(motion)
    seen = inside(whole)[:, 0]
    distance = (motion - whole).square().sum(dim=1).sqrt()
    return (distance * seen).sum(dim=(1, 2)) / seen.sum(dim=(1, 2))


class SequenceMetrics(nn.Module):
    """Motion errors and PSNR of the decoupled layers over one data set, as far as the ground truth is known.

    ``motion_error_<layer>``: :func:`endpoint_error` in image pixels; ``still_error_<layer>``: the same for zero motion.
    ``decoupled_<layer>_psnr``: PSNR in dB of the layer decoded from every frame, at its own (reduced) size;
    ``mixture_<layer>_psnr``: the same for the mixture instead.
    """

    def __init__(self) -> None:
        super().__init__()
        names = ("motion_error_{}", "still_error_{}", "decoupled_{}_psnr", "mixture_{}_psnr")
        self.means = nn.ModuleDict({name.format(layer): MeanMetric() for layer in _LAYERS for name in names})

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch; batches without sequences are ignored."""
        aux = outputs.get("aux", {})
        if "frames" not in batch:
            return
        for index, layer in enumerate(_LAYERS):
            self._add_motion(aux.get("motion", {}).get(layer), batch, index, layer)
            self._add_layers(aux.get(f"frame_{layer}s"), batch, layer)

    def _add_motion(self, motion: Tensor | None, batch: Batch, index: int, layer: Layer) -> None:
        if motion is None or "frame_motion" not in batch:
            return
        known = batch["has_frame_reflection"].all(dim=1)
        frames = motion.shape[1] + 1
        others = [other for other in range(frames) if other != frames // 2]
        for place, other in enumerate(others):
            true = batch["frame_motion"][known, index, other]
            if len(true):
                found = motion[known, place].float()
                self._mean(f"motion_error_{layer}").update(endpoint_error(found, true))
                self._mean(f"still_error_{layer}").update(true.square().sum(dim=1).sqrt())

    def _add_layers(self, decoded: Tensor | None, batch: Batch, layer: Layer) -> None:
        if decoded is None:
            return
        truth, known = frame_truth(batch, layer, decoded.shape[1])
        size = decoded.shape[-2:]
        wanted, mixed = (averaged_down(images[known], *size) for images in (truth, batch["frames"]))
        for name, images in (("decoupled", decoded[known]), ("mixture", mixed)):
            for image, true in zip(images.float(), wanted.float(), strict=True):
                score = peak_signal_noise_ratio(image.clamp(0, 1), true.clamp(0, 1), data_range=1.0)
                self._mean(f"{name}_{layer}_psnr").update(score)

    def _mean(self, name: str) -> MeanMetric:
        metric = self.means[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def compute(self) -> dict[str, Tensor]:
        """The values of all metrics that have been updated."""
        values: dict[str, Tensor] = {}
        for name in self.means:
            metric = self._mean(name)
            # A process without any sample must still take part in the others' reductions.
            if across_any(bool(metric.update_called), metric.device):
                values[name] = metric.compute()
        return values

    def reset(self) -> None:
        """Reset all metrics."""
        for name in self.means:
            self._mean(name).reset()
