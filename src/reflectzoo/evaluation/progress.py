"""How far an evaluation is, and how long it will still take."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY = 30.0
"""Seconds between lines where there is no terminal."""


class EvaluationProgress(pl.Callback):
    """A live bar over all pictures with the remaining time; on a file or a pipe, a line now and then.

    Under distributed evaluation the first process speaks, of its own share.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = self._count = 0
        self._began = self._said = 0.0

    @rank_zero_only
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the pictures."""
        self._total = int(sum(trainer.num_test_batches))
        self._count = 0
        self._began = self._said = time.monotonic()
        if sys.stdout.isatty() and self._total:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("scoring", total=self._total)

    @rank_zero_only
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One more."""
        self._count += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"scoring {batch['dataset'][0]}")
            return
        now = time.monotonic()
        if now - self._said >= _EVERY:
            self._said = now
            left = (now - self._began) / self._count * (self._total - self._count)
            rank_zero_info(
                f"{batch['dataset'][0]}: {self._count} of {self._total} pictures, about {_duration(left)} left"
            )

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    @rank_zero_only
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
