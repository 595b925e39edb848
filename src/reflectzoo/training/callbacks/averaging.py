"""Exponential moving average of the weights that survives interruptions."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reflectzoo.core.annotations import Fraction
from reflectzoo.core.settings import checked


class ExponentialAverage(WeightAveraging):
    """Lightning's moving average of the weights, with three faults corrected.

    - A checkpoint written during validation, while the network holds the averaged weights, stores averaged and raw
      weights under the right keys.
    - The average of weights that do not change (a frozen teacher) equals them bit for bit: it is computed as
      a + (w - a)(1 - decay), not as a decay + w (1 - decay).
    - It has the precision of the weights, whatever ``trainer.precision`` is.

    Args:
        decay: share of the old average in the new one, in [0, 1).

    Raises:
        UserError: if ``decay`` is out of range.
    """

    @checked("callbacks.ema")
    def __init__(self, decay: Fraction = 0.99) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self._swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the average in the precision of training (``trainer.precision=64-true``)."""
        trainer.precision_plugin.convert_module(pl_module)
        super().setup(trainer, pl_module, stage)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the averaged weights in ``state_dict`` and the raw ones in ``current_model_state``."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            raw, averaged = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = averaged, raw
