"""Callback that reports a training run to a trial of a study, and stops it early."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from optuna.trial import Trial

from reflectzoo.errors import UserError


class TrialReport(pl.Callback):
    """Reports every validation to a trial, and stops the training when the study's pruner decides so.

    For a method that trains in phases (a teacher, then its student), only the last phase counts: the best value is
    reset at the start of each phase, as for the best checkpoint.

    Args:
        trial: trial of the study.
        monitor: the metric, e.g. ``val/mean/psnr``.
        maximize: whether larger is better.

    Attributes:
        best: the best value of the current phase; None before the first validation, or if all values were NaN.
        pruned: whether the pruner stopped the training.
    """

    def __init__(self, trial: Trial, monitor: str, maximize: bool) -> None:
        self.trial = trial
        self.monitor = monitor
        self.maximize = maximize
        self.best: float | None = None
        self.pruned = False
        self._phase = 0

    def state_dict(self) -> dict[str, Any]:
        """State that an interrupted trial needs to resume."""
        return {"best": self.best, "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of an interrupted trial."""
        self.best, self._phase = state_dict["best"], state_dict["phase"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the metric, and stop the training if the trial should be pruned.

        Raises:
            UserError: if the metric is not logged.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        found = trainer.callback_metrics.get(self.monitor)
        if found is None:
            logged = ", ".join(sorted(key for key in trainer.callback_metrics if key.startswith("val/")))
            raise UserError(f"The validation does not log {self.monitor}: --metric takes one of {logged}.")
        value = float(found)
        phase = int(getattr(pl_module, "phase", 0))
        if phase != self._phase:
            self.best, self._phase = None, phase
        if not math.isnan(value) and (self.best is None or (value > self.best) == self.maximize):
            self.best = value
        self.trial.report(value, trainer.current_epoch)
        if self.trial.should_prune():
            self.pruned = True
            trainer.should_stop = True
