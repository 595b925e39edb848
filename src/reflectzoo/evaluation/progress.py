"""Progress of an evaluation and estimate of the remaining time.

The estimate is based on pixels rather than pictures, because the sets may differ in the size of their pictures. It
starts after a few pictures and excludes the first one, which includes loading and warm-up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_EVERY = 30.0
"""Seconds between lines if the output is not a terminal."""


class TimeLeft:
    """Estimator of the remaining time of some work, from the speed so far.

    Args:
        total: amount of work, in any unit.

    Example:
        >>> left = TimeLeft(100.0)
        >>> for seconds in (9.0, 1.0, 1.0, 1.0):
        ...     left.done(10.0, seconds)
        >>> left.seconds()
        6.0
    """

    _WARM_UP = 1

    def __init__(self, total: float) -> None:
        self.rest = total
        self._steps = 0
        self._size = self._seconds = 0.0

    def done(self, size: float, seconds: float) -> None:
        """Record a step of the given amount of work; the first step does not count for the speed."""
        self.rest = max(0.0, self.rest - size)
        self._steps += 1
        if self._steps > self._WARM_UP:
            self._size += size
            self._seconds += seconds

    def seconds(self) -> float | None:
        """Remaining time in seconds; None before the third step."""
        if self._steps < self._WARM_UP + 2 or not self._size:
            return None
        return self._seconds / self._size * self.rest


class EvaluationProgress(pl.Callback):
    """Progress bar over all pictures with the remaining time; without a terminal, a line every 30 seconds.

    In distributed evaluation, rank 0 reports its own share.
    """

    def __init__(self) -> None:
        self._pixels: Sequence[Sequence[int]] = ()
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = self._count = 0
        self._said = self._last = 0.0
        self._known = False
        self._left = TimeLeft(0.0)

    def expect(self, pixels: Sequence[Sequence[int]]) -> None:
        """Set the number of pixels of each picture that remains to be scored, by set; 0 where it is unknown."""
        self._pixels = pixels

    @rank_zero_only
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the pictures and start the bar."""
        self._total = int(sum(trainer.num_test_batches))
        self._count = 0
        self._known = bool(self._pixels) and all(size for each in self._pixels for size in each)
        # Each process has an equal share of every set.
        self._left = TimeLeft(sum(map(sum, self._pixels)) / trainer.world_size if self._known else self._total)
        self._said = self._last = time.monotonic()
        if sys.stdout.isatty() and self._total:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("scoring", total=self._total, left="")

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
        """Update the bar, or print a line."""
        self._count += 1
        now = time.monotonic()
        height, width = batch["mixture"].shape[-2:]
        self._left.done(float(height * width) if self._known else 1.0, now - self._last)
        self._last = now
        seconds = self._left.seconds()
        left = "" if seconds is None else f", about {duration(seconds)} left"
        if self._bar is not None:
            words = f"scoring {batch['dataset'][0]}"
            self._bar.update(self._task, advance=1, description=words, left=left.removeprefix(", "))
        elif now - self._said >= _EVERY:
            self._said = now
            rank_zero_info(f"{batch['dataset'][0]}: {self._count} of {self._total} pictures{left}")

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    @rank_zero_only
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """Format a duration: ``2 h 5 min``, ``3 min 20 s``, ``8 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
