"""Training with several optimisers: against a discriminator, or in phases."""

from __future__ import annotations

from typing import Any, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from reflectzoo.core.annotations import Count, Positive
from reflectzoo.core.batch import Batch
from reflectzoo.core.settings import checked
from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.training.module import OptimizerFactory, ReflectionModule, SchedulerFactory


class AdversarialModule(ReflectionModule):
    """A :class:`ReflectionModule` that supports an adversarial loss term and training in phases.

    In every step the discriminator of that term is updated before the network, by its own optimiser. Without the term
    (``~loss.terms.adversarial``) the module trains like any other method.

    Optimisation is manual. Clipping and accumulation are therefore arguments of this module, not of the Trainer, and
    schedules are defined in epochs, since ``trainer.global_step`` counts the steps of all optimisers.

    Args:
        discriminator_optimizer: makes the discriminator's optimiser; defaults to ``optimizer``. Its learning rate stays
            constant.
        accumulate: number of batches over which gradients are averaged before a step.
        clip_grad_norm: maximum gradient norm of each optimiser's parameters; None disables clipping.
        **kwargs: as for :class:`ReflectionModule`.
    """

    @checked("model")
    def __init__(
        self,
        *args: Any,
        discriminator_optimizer: OptimizerFactory | None = None,
        accumulate: Count = 1,
        clip_grad_norm: Positive | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.make_discriminator_optimizer = discriminator_optimizer or self.make_optimizer
        self.accumulate = accumulate
        self.clip_grad_norm = clip_grad_norm
        self._step_now = True
        self._scales: dict[int, float] = {}

    # -- overridden by methods with phases -----------------------------------------------------------------------------

    def phase_modules(self) -> list[nn.Module]:
        """The part of the network that each training phase optimises."""
        return [self.net]

    def phase_schedulers(self) -> list[SchedulerFactory | None]:
        """The learning-rate schedule of each phase."""
        return [self.make_scheduler]

    def compiled_parts(self) -> list[nn.Module]:
        """The network, and the parts of it that train separately."""
        return list({id(part): part for part in (self.net, *self.phase_modules())}.values())

    # -- training ------------------------------------------------------------------------------------------------------

    @property
    def adversarial_term(self) -> AdversarialLoss | None:
        """The adversarial term of the loss, or None."""
        return next((term for term in self.loss.terms.values() if isinstance(term, AdversarialLoss)), None)

    def configure_optimizers(self) -> Any:
        """One optimiser for each phase, then the discriminator's."""
        configured: list[dict[str, Any]] = []
        for module, scheduler in zip(self.phase_modules(), self.phase_schedulers(), strict=True):
            optimizer = self.make_optimizer(list(module.parameters()))
            configured.append({"optimizer": optimizer})
            if scheduler is not None:
                configured[-1]["lr_scheduler"] = {
                    "scheduler": scheduler(optimizer),
                    "name": f"lr/phase{len(configured)}",
                }
        if self.adversarial_term is not None:
            parameters = list(self.adversarial_term.discriminator.parameters())
            configured.append({"optimizer": self.make_discriminator_optimizer(parameters)})
        return tuple(configured)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Also determine whether this batch completes an accumulation; an epoch's last batch always does."""
        super().on_train_batch_start(batch, batch_idx)
        last = batch_idx + 1 == self.trainer.num_training_batches
        self._step_now = last or (batch_idx + 1) % self.accumulate == 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Update the discriminator, then the network; log every loss term."""
        optimizers = cast(list[LightningOptimizer], self._as_list(self.optimizers()))
        optimizer = optimizers[self.phase]
        outputs = self.predict_batch(batch)
        discriminator_parts: dict[str, Tensor] = {}
        term = self.adversarial_term
        if term is not None and (weight := term.weight_at(self.phase, self.current_epoch)) > 0:
            value = term.discriminator_loss(outputs, batch, phase=self.phase)
            # The authors' program also scales the discriminator's loss by the term's weight (lambda_gan); with Adam
            # this matters only because of its epsilon.
            discriminator_parts["discriminator"] = value.detach()
            self.check_finite(value.detach(), discriminator_parts)
            self._step(weight * value, optimizers[-1])
        total, parts = self.loss(outputs, batch, phase=self.phase, epoch=self.current_epoch)
        self.check_finite(total.detach(), parts)
        self._step(total, optimizer)
        self.log_losses(total, {**parts, **discriminator_parts}, len(batch["name"]))
        return None

    def _step(self, loss: Tensor, optimizer: LightningOptimizer) -> None:
        with optimizer.toggle_model(sync_grad=self._step_now):
            self._adjust_kept_gradients(optimizer.optimizer)
            self.manual_backward(loss / self.accumulate)
            if self._step_now:
                optimizer.step()
                optimizer.zero_grad()

    def _adjust_kept_gradients(self, optimizer: Optimizer) -> None:
        """Rescale accumulated gradients to the current float16 loss scale, which the other optimiser may change."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None or self.accumulate == 1:
            return
        now = scaler.get_scale()
        before = self._scales.get(id(optimizer), now)
        self._scales[id(optimizer)] = now
        if now != before:
            for parameter in _parameters(optimizer):
                if parameter.grad is not None:
                    parameter.grad.mul_(now / before)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients; under float16 they are unscaled only at this point."""
        if self.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(_parameters(optimizer), self.clip_grad_norm)

    def on_train_epoch_end(self) -> None:
        """Advance the schedule of the current phase."""
        schedulers = self._as_list(self.lr_schedulers())
        wanted = [index for index, factory in enumerate(self.phase_schedulers()) if factory is not None]
        if self.phase in wanted:
            cast(Any, schedulers[wanted.index(self.phase)]).step()

    @staticmethod
    def _as_list(value: Any) -> list[Any]:
        return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
