"""Training of YTMT: one stage, or two stages in one fit."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from reflectzoo.errors import UserError
from reflectzoo.methods.ytmt.convert import remap
from reflectzoo.methods.ytmt.two_stage import TwoStage, set_phase
from reflectzoo.training.adversarial import AdversarialModule
from reflectzoo.training.module import SchedulerFactory
from reflectzoo.weights.layouts import candidate_state_dicts
from reflectzoo.weights.read import read_checkpoint


class YTMT(AdversarialModule):
    """Your Trash is My Treasure (Hu and Guo, NeurIPS 2021), Sec. 3.2.

    With a :class:`~reflectzoo.methods.ytmt.two_stage.TwoStage` network the first stage trains for ``stage1_epochs``
    epochs and is then frozen and copied to the second, which continues training, all in one ``fit``. Training phase 0
    is the first stage, phase 1 the second; loss terms may have one weight per phase.

    Args:
        stage1_epochs: epochs of the first stage; the second continues the count, as in the authors' program, whose
            published file finished stage 1 at epoch 68. Ignored by a one-stage network.
        stage1_ckpt: a finished first stage (a checkpoint of reflectzoo or the authors' file); training then starts in
            the second stage.
        stage2_scheduler: learning-rate schedule of the second stage; None for a constant rate, as in the program.
        init_gain: initialise the 3x3 convolutions from He et al.'s normal distribution times this gain; None keeps
            PyTorch's initialisation, as in the program. Each block's two attentions start near 1/2, so that signals
            fade over the blocks by default; a larger gain helps short training runs.
        **kwargs: as for :class:`~reflectzoo.training.adversarial.AdversarialModule`.

    Raises:
        UserError: if ``stage1_ckpt`` is given for a one-stage network or does not fit.
    """

    def __init__(
        self,
        *args: Any,
        stage1_epochs: int = 68,
        stage1_ckpt: str | None = None,
        stage2_scheduler: SchedulerFactory | None = None,
        init_gain: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("stage1_epochs", "init_gain")
        if init_gain is not None:
            _initialise(self.net, init_gain)
        self.stage1_epochs = stage1_epochs
        self.make_stage2_scheduler = stage2_scheduler
        self._phase = 0
        if stage1_ckpt is not None:
            self._start_from(stage1_ckpt)

    @property
    def two_stage(self) -> TwoStage | None:
        """The network if it has two stages, otherwise None."""
        return self.net if isinstance(self.net, TwoStage) else None

    @property
    def phase(self) -> int:
        """0 while the first stage trains, 1 while the second does."""
        return self._phase

    def phase_modules(self) -> list[nn.Module]:
        """First and second stage, or the whole network."""
        return [self.two_stage.icnn, self.two_stage.icnn2] if self.two_stage else [self.net]

    def phase_schedulers(self) -> list[SchedulerFactory | None]:
        """The schedules of the two stages, or the only one."""
        return [self.make_scheduler, self.make_stage2_scheduler] if self.two_stage else [self.make_scheduler]

    def on_train_epoch_start(self) -> None:
        """Switch to the second stage after ``stage1_epochs`` epochs."""
        if self.two_stage and self._phase == 0 and self.current_epoch >= self.stage1_epochs:
            self.two_stage.start_stage2()
            self._phase = 1
            rank_zero_info(
                f"YTMT: stage 1 is frozen and copied into stage 2, which trains from epoch {self.current_epoch}"
            )

    def _start_from(self, path: str) -> None:
        if self.two_stage is None:
            raise UserError(f"model.stage1_ckpt is for the two-stage models, but model={self.name} has one stage.")
        checkpoint = read_checkpoint(Path(path), "model.stage1_ckpt")
        state = _stage1_state(checkpoint)
        if not state:
            raise UserError(f"model.stage1_ckpt={path} holds no YTMT network: give a checkpoint of model=ytmt_*.")
        wanted = self.two_stage.icnn.state_dict()
        wrong = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
        if wrong or len(state) != len(wanted):
            raise UserError(
                f"model.stage1_ckpt={path} is a different network from the stages of model={self.name} ({len(wrong)} "
                f"of {len(wanted)} weights differ in name or shape, the first is "
                f"'{(wrong or sorted(set(state) - set(wanted)))[0]}'): give one of the same variant, width and "
                "hypercolumn."
            )
        self.two_stage.icnn.load_state_dict(state)
        self.two_stage.start_stage2()
        self._phase = 1

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also restore the phase of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self._phase = int((checkpoint.get("reflectzoo") or {}).get("phase", 0))
        set_phase(self.net, self._phase)


def _initialise(net: nn.Module, gain: float) -> None:
    for module in net.modules():
        # Not the output layers: their sigmoids would start saturated, and a stream could stay black.
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.out_channels != 3:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            with torch.no_grad():
                module.weight.mul_(gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _stage1_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The first stage's weights from a file of reflectzoo or the authors, of one or two stages; empty if none."""
    for candidate in candidate_state_dicts(checkpoint):
        with contextlib.suppress(UserError):
            return remap(candidate, stages=1)
    return {}
