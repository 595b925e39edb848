"""The batch on which training broke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from reflectzoo.core.disk import whole_file
from reflectzoo.errors import NotFinite


class KeepBrokenBatch(pl.Callback):
    """When a loss is no number any more, writes the batch it came from, for ``torch.load(file, weights_only=True)``.

    Args:
        path: the file; other processes than the first put their number before its suffix.

    Attributes:
        written: the file, once there is one.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.written: Path | None = None
        self._batch: Any = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember what is being worked on."""
        self._batch = batch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """It went well."""
        self._batch = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write it down, if that was it."""
        batch, self._batch = self._batch, None
        if not isinstance(exception, NotFinite) or batch is None:
            return
        rank = trainer.global_rank
        path = self.path.with_stem(f"{self.path.stem}_{rank}") if rank else self.path
        with whole_file(path) as file:
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
