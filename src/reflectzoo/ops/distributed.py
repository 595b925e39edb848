"""Means over batches that are distributed over processes, or that partly lack ground truth.

Some loss terms are not linear in their batch mean (the exclusion loss takes a fourth root, relativistic GANs subtract
it). Computed per process and then averaged, they would differ from the result of a single process with the whole batch.
These functions compute the mean over all processes; their gradients are such that averaging by DistributedDataParallel
yields the gradient of the whole batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def processes() -> int:
    """Number of training processes (1 outside distributed training)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def across_processes(mean: Tensor) -> Tensor:
    """Average a per-process mean over all processes (equal batch sizes), differentiably; identity for one process.

    Args:
        mean: any shape, the same on every process.

    Returns:
        Same shape.
    """
    world = processes()
    if world == 1:
        return mean
    reduced: Tensor = all_reduce(mean)  # type: ignore[no-untyped-call]
    return reduced / world


def across_any(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set in any process; a collective operation that all processes must call."""
    if processes() == 1:
        return flag
    seen = torch.tensor(int(flag), device=device)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid samples.

    Args:
        values: (B, ...), one value per element.
        valid: (B,) bool, samples to include.

    Returns:
        Scalar: mean of ``values`` over all elements of the valid samples of all processes; zero if there are none. In
        distributed training, each process returns its own contribution times the number of processes, so that the
        average over the processes is that mean.
    """
    per_sample = values.flatten(1).mean(dim=1)
    count = valid.sum().to(per_sample.dtype)
    world = processes()
    if world > 1:
        count = count.clone()
        dist.all_reduce(count)
        count = count / world
    kept = torch.where(valid, per_sample, torch.zeros_like(per_sample))
    return kept.sum() / count.clamp(min=1.0 / world)


def masked_batch_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Element-wise mean over the valid samples.

    Unlike :func:`masked_mean`, every process returns the mean over all processes (like :func:`across_processes`), for
    use in functions that are not linear in it.

    Args:
        values: (B, ...).
        valid: (B,) bool, samples to include.

    Returns:
        (1, ...); zero if no sample is valid.
    """
    mask = valid.view(-1, *(1,) * (values.ndim - 1))
    count = across_processes(valid.sum().to(values.dtype))
    kept = across_processes(torch.where(mask, values, torch.zeros_like(values)).sum(dim=0, keepdim=True))
    return kept / count.clamp(min=1.0 / processes())


def all_if_none(valid: Tensor | None, images: Tensor) -> Tensor:
    """``valid``, (B,) bool; all true if it is None."""
    return images.new_ones(len(images), dtype=torch.bool) if valid is None else valid
