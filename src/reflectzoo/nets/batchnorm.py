"""Synchronised batch normalisation on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reflectzoo.ops.distributed import across_processes, processes


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that in training uses the statistics of all processes, whose batches must be of equal size.

    PyTorch's SyncBatchNorm does not support the CPU. Weights and buffers are those of ``nn.BatchNorm2d``; with one
    process, and outside training, so is the computation.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training or processes() == 1:
            return super().forward(input)
        # In two passes, as in a single process: the mean of squares minus the squared mean would lose precision.
        values = input if input.dtype == torch.float64 else input.float()
        mean = across_processes(values.mean(dim=(0, 2, 3)))
        centred = values - mean.view(1, -1, 1, 1)
        variance = across_processes(centred.square().mean(dim=(0, 2, 3)))
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._remember(mean.detach(), variance.detach(), input.numel() // input.shape[1] * processes())
        normalised = centred * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        if self.affine:
            normalised = normalised * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked or 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def share_batch_norm(module: nn.Module) -> int:
    """Turn every ``nn.BatchNorm2d`` in a module into a :class:`SharedBatchNorm2d`, in place.

    Returns:
        The number of converted layers.
    """
    found = [each for each in module.modules() if type(each) is nn.BatchNorm2d]
    for each in found:
        each.__class__ = SharedBatchNorm2d
    return len(found)
