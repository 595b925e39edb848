"""Saving the batch that made a loss non-finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from reflectzoo.core.disk import atomic_file
from reflectzoo.errors import NotFinite


class KeepBrokenBatch(pl.Callback):
    """Saves the batch whose loss is not finite; ``torch.load(file, weights_only=True)`` reads it.

    Args:
        path: the file to write; ranks other than 0 insert ``_<rank>`` before its suffix.

    Attributes:
        written: the file, once it has been written; None before.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.written: Path | None = None
        self._batch: Any = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep a reference to the current batch."""
        self._batch = batch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Drop the batch: its step succeeded."""
        self._batch = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the batch if the exception is :class:`~reflectzoo.errors.NotFinite`."""
        batch, self._batch = self._batch, None
        if not isinstance(exception, NotFinite) or batch is None:
            return
        rank = trainer.global_rank
        path = self.path.with_stem(f"{self.path.stem}_{rank}") if rank else self.path
        with atomic_file(path) as file:
            torch.save(_on_cpu(batch), file)
        self.written = path


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value
