"""What a trial of a study hears of the training, and how it is stopped early."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from optuna.trial import Trial

from reflectzoo.errors import UserError


class TrialReport(pl.Callback):
    """Reports every validation to a trial, and stops the training when the study's pruner has seen enough.

    A method that trains in phases (a teacher, then its student) is judged by its last one: with each new phase the
    search for the best value starts anew, as that for the best checkpoint does.

    Args:
        trial: of the study.
        monitor: the metric, e.g. ``val/mean/psnr``.
        maximize: whether larger is better.

    Attributes:
        best: the best value so far; None before the first validation.
        pruned: whether the pruner stopped it.
    """

    def __init__(self, trial: Trial, monitor: str, maximize: bool) -> None:
        self.trial = trial
        self.monitor = monitor
        self.maximize = maximize
        self.best: float | None = None
        self.pruned = False
        self._phase = 0

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted trial must not forget."""
        return {"best": self.best, "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self._phase = state_dict["best"], state_dict["phase"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and ask whether to go on.

        Raises:
            UserError: if the metric is not among those that were logged.
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
