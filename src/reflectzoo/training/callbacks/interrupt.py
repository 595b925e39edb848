"""Graceful interruption: Ctrl-C and SIGTERM save a checkpoint before training stops."""

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
from reflectzoo.core.ranks import slurm_job

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PREEMPT = getattr(signal, "SIGUSR1", signal.SIGTERM)  # Windows, where there is no SLURM, has no SIGUSR1


# A subclass of Checkpoint because Lightning calls those after all other callbacks, which have then finished the step.
class GracefulInterrupt(Checkpoint):
    """On the first Ctrl-C (or SIGTERM) saves ``last.ckpt`` between two steps and stops; a second one stops at once.

    In a SLURM job, SIGUSR1 does the same: ``sbatch --signal=SIGUSR1@120`` sends it before the job's time is over.

    The checkpoint is written at a point from which training resumes as if it had not been interrupted:

    - before the next batch, when every callback and logger has processed the last one; never during gradient
      accumulation, since no checkpoint stores gradients;
    - during validation, with the state before it: resuming repeats validation from its first batch, since partial
      scores are not saved;
    - at the end of an epoch.

    Args:
        path: the checkpoint to write.
        every_minutes: interval at which it is also written within long epochs, for machines that are switched off
            without warning; None disables this.

    Attributes:
        saved: whether a signal arrived and its checkpoint has been written.
        preempted: whether the signal was SIGUSR1, in this process or another one.
    """

    def __init__(self, path: str, every_minutes: Positive | None = 15) -> None:
        self.path = Path(path)
        self.every_minutes = every_minutes
        self.saved = False
        self.preempted = False
        self._asked = False
        self._written = time.monotonic()
        self._state = "whole"
        self._previous: dict[int, Any] = {}

    # -- signal handlers ----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers, over Lightning's, which would exit on SIGTERM without saving."""
        self._written = time.monotonic()
        self._tidy_counters(trainer)
        try:
            numbers = _SIGNALS if slurm_job() is None else (*_SIGNALS, _PREEMPT)
            self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        except ValueError:  # only the main thread may install handlers; elsewhere Ctrl-C keeps its usual effect
            self._previous = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number == _PREEMPT:
            self.preempted = True
            os.write(2, b"\nStopping after this step and saving, as SLURM asks.\n")
            return
        # Not the previous handlers: Lightning's would also wait for the end of a step.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Not print, which is not reentrant: the signal may have interrupted one.
        os.write(2, b"\nStopping after this step and saving; press Ctrl-C again to stop at once.\n")

    def _stop_listening(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the signal handlers, since what follows is short or repeatable; stop if a signal has arrived.

        Raises:
            KeyboardInterrupt: if a signal arrived that no checkpoint has answered yet.
        """
        self._stop_listening()
        if self._asked:
            raise KeyboardInterrupt

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._stop_listening()

    # -- points at which training may stop ----------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save or stop between two steps."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        together = trainer.accumulate_grad_batches * int(getattr(pl_module, "accumulate", 1))
        # Not at the first batch of an epoch: Lightning would take such a checkpoint for one after validation.
        if done > 0 and done % together == 0:
            self._look(trainer, "between")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between the last step and a validation."""
        self._look(trainer, "validation")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop during a validation."""
        self._look(trainer, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at the end of an epoch."""
        self._look(trainer, "whole")

    def _look(self, trainer: pl.Trainer, state: str) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        due = self.every_minutes is not None and time.monotonic() - self._written > 60 * self.every_minutes
        # The signal may reach each process at another step; they must agree, or one would wait for the others forever.
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
            self.preempted = trainer.strategy.reduce_boolean_decision(self.preempted, all=False)
            raise KeyboardInterrupt

    # -- Lightning's progress counters --------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the loop counters to the position from which training resumes."""
        counters = checkpoint["loops"]["fit_loop"]
        if self._state == "between":
            # The next batch has been fetched but not processed.
            progress = counters["epoch_loop.batch_progress"]
            for each in (progress["total"], progress["current"]):
                each["ready"] = each["started"]
            progress["is_last_batch"] = False
        elif self._state == "validation":
            # Lightning then resumes as from a validation interrupted in its first batch.
            progress = counters["epoch_loop.val_loop.batch_progress"]
            done = progress["total"]["completed"]
            progress["total"].update(ready=done + 1, started=done + 1, processed=done, completed=done)
            progress["current"].update(ready=1, started=1, processed=0, completed=0)
            progress["is_last_batch"] = False

    @staticmethod
    def _tidy_counters(trainer: pl.Trainer) -> None:
        """Remove the unfinished validation batch once Lightning has restarted, so that later checkpoints lack it."""
        validation = trainer.fit_loop.epoch_loop.val_loop
        if validation.restarted_mid_evaluation:
            total: Any = validation.batch_progress.total
            total.ready = total.started = total.processed = total.completed
