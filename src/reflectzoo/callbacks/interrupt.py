"""Ctrl-C that loses nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info


class GracefulInterrupt(pl.Callback):
    """On the first Ctrl-C (or SIGTERM) finishes the training step, saves ``last.ckpt`` and stops.

    The checkpoint is of the middle of the epoch; resuming from it goes on with the next batch. A second Ctrl-C stops at
    once, as usual.

    Args:
        path: the checkpoint to write.

    Attributes:
        interrupted: whether it happened; the command line exits with status 130 then.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.interrupted = False
        self._previous: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        rank_zero_info("\nStopping after this step and saving; press Ctrl-C again to stop at once.")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start listening."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        except ValueError:  # only the main thread may listen; elsewhere Ctrl-C does what it always did
            self._previous = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if asked to."""
        # Each process may be told at another moment; they must agree, or one would wait for the others for ever.
        if trainer.strategy.reduce_boolean_decision(self.interrupted, all=False):
            self.interrupted = True
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """During validation there is nothing half done that the last checkpoint would not repeat."""
        if self.interrupted and trainer.world_size == 1 and trainer.state.fn == "fit":
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop listening."""
        if not self.interrupted:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        self._previous = {}
