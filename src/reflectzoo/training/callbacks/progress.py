"""Progress display of training."""

from __future__ import annotations

import sys

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.utilities import rank_zero_info


class Progress(RichProgressBar):
    """A live bar on a terminal; one line per epoch if the output is a file or a pipe."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._live = sys.stdout.isatty()
        if not self._live:
            self.disable()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line if there is no live bar."""
        super().on_validation_end(trainer, pl_module)
        if self._live or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        shown = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        for key, title, digits in (("train/total", "loss", 4), ("val/mean/psnr", "val PSNR", 2)):
            if key in metrics:
                shown.append(f"{title} {float(metrics[key]):.{digits}f}")
        rank_zero_info("  ".join(shown))
