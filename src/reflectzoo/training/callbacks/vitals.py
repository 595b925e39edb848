"""Logged health of a training run: gradient norms, throughput and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

_STEPS = 20
"""Number of steps over which speeds are averaged."""


class Vitals(pl.Callback):
    """Logs gradient norms, throughput and memory to every logger.

    - ``train/grad_norm``: L2 norm of the whole gradient before clipping; with several optimisers
      ``train/grad_norm/phase1``, ..., and ``train/grad_norm/discriminator``. Not logged under FSDP, where each process
      has only a shard of the gradient.
    - ``speed/images_per_second``: of all processes together, over the last 20 steps; ``speed/wait``: the share of that
      time, in [0, 1], spent waiting for batches.
    - ``memory/process_gb`` and ``memory/gpu_gb``: peak memory so far of this process, and of PyTorch on its GPU, in
      GiB.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float, int]] = deque(maxlen=_STEPS)  # seconds, seconds of waiting, images
        self._ended: float | None = None
        self._began = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the timer: the time between epochs does not count as waiting for photographs."""
        self._ended = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record when the batch arrived."""
        self._began = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log the gradient norm; here gradients are complete, and under float16 already unscaled."""
        if "FSDP" in type(trainer.strategy).__name__:
            return
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            pl_module.log(_name(trainer, pl_module, optimizer), norm, on_step=True, on_epoch=False, batch_size=1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the speed."""
        now = time.perf_counter()
        if self._ended is not None:
            images = len(batch["name"]) * trainer.world_size
            self._steps.append((now - self._ended, self._began - self._ended, images))
            seconds, waited, count = (sum(column) for column in zip(*self._steps, strict=True))
            values = {"speed/images_per_second": count / seconds, "speed/wait": waited / seconds}
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
        self._ended = now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log peak memory."""
        # ru_maxrss is in kilobytes, on macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        values = {"memory/process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
        if pl_module.device.type == "cuda":
            values["memory/gpu_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(values, batch_size=1)


def _name(trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> str:
    if len(trainer.optimizers) == 1:
        return "train/grad_norm"
    place = next(index for index, each in enumerate(trainer.optimizers) if each is optimizer)
    last = place == len(trainer.optimizers) - 1
    if last and getattr(pl_module, "adversarial_term", None) is not None:
        return "train/grad_norm/discriminator"
    return f"train/grad_norm/phase{place + 1}"
