"""Ctrl-C that loses nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from reflectzoo.core.annotations import Positive

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


# A Checkpoint, since Lightning calls these after all others, which have then done their part of the step.
class GracefulInterrupt(Checkpoint):
    """On the first Ctrl-C (or SIGTERM) saves ``last.ckpt`` between two steps and stops; a second one stops at once.

    The checkpoint is of a state from which training goes on as if nothing had happened:

    - before the next batch, when every callback and logger has seen the last one. Not while gradients accumulate,
      which no checkpoint holds;
    - during validation: of the state before it, and going on repeats it from its first batch, since nothing keeps the
      scores of half a validation;
    - after the epoch.

    Args:
        path: the checkpoint to write.
        every_minutes: it is also written so often within long epochs, for machines that are switched off without a
            word; None never.

    Attributes:
        saved: whether a signal came and its checkpoint is written.
    """

    def __init__(self, path: str, every_minutes: Positive | None = 15) -> None:
        self.path = Path(path)
        self.every_minutes = every_minutes
        self.saved = False
        self._asked = False
        self._written = time.monotonic()
        self._state = "whole"
        self._previous: dict[int, Any] = {}

    # -- listening ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start listening: after Lightning, which would leave on SIGTERM without saving anything."""
        self._written = time.monotonic()
        self._tidy_counters(trainer)
        try:
            self._previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        except ValueError:  # only the main thread may listen; elsewhere Ctrl-C does what it always did
            self._previous = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        # Not the handlers before: Lightning's, too, would wait for the end of a step.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nStopping after this step and saving; press Ctrl-C again to stop at once.\n")

    def _stop_listening(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What comes now is short, or can be repeated."""
        self._stop_listening()
        if self._asked:
            raise KeyboardInterrupt

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Training ends early."""
        self._stop_listening()

    # -- moments at which to stop -------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        together = trainer.accumulate_grad_batches * int(getattr(pl_module, "accumulate", 1))
        # The first batch of an epoch: Lightning takes a checkpoint of this moment for one after validation.
        if done > 0 and done % together == 0:
            self._look(trainer, "between")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the last step before a validation."""
        self._look(trainer, "validation")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Within a validation."""
        self._look(trainer, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After an epoch."""
        self._look(trainer, "whole")

    def _look(self, trainer: pl.Trainer, state: str) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        due = self.every_minutes is not None and time.monotonic() - self._written > 60 * self.every_minutes
        # Each process may be told at another moment; they must agree, or one would wait for the others for ever.
        if not trainer.strategy.reduce_boolean_decision(self._asked or (due and state == "between"), all=False):
            return
        stop = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        self._state = state
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._state = "whole"
        self._written = time.monotonic()
        if stop:
            self.saved = True
            raise KeyboardInterrupt

    # -- what Lightning's counters say --------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the counters of the loops where training is to go on."""
        counters = checkpoint["loops"]["fit_loop"]
        if self._state == "between":
            # The next batch is fetched, but nothing has been done with it.
            progress = counters["epoch_loop.batch_progress"]
            for each in (progress["total"], progress["current"]):
                each["ready"] = each["started"]
            progress["is_last_batch"] = False
        elif self._state == "validation":
            # For Lightning, a validation that was left in the middle of its first batch.
            progress = counters["epoch_loop.val_loop.batch_progress"]
            done = progress["total"]["completed"]
            progress["total"].update(ready=done + 1, started=done + 1, processed=done, completed=done)
            progress["current"].update(ready=1, started=1, processed=0, completed=0)
            progress["is_last_batch"] = False

    @staticmethod
    def _tidy_counters(trainer: pl.Trainer) -> None:
        """Take the unfinished batch back, of which Lightning has learnt by now: a later checkpoint must not have it."""
        validation = trainer.fit_loop.epoch_loop.val_loop
        if validation.restarted_mid_evaluation:
            total: Any = validation.batch_progress.total
            total.ready = total.started = total.processed = total.completed
