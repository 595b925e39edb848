"""The LightningModule that every method shares: training, validation, prediction and what a checkpoint carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.core.settings import checked
from reflectzoo.data.seeding import sample_seed
from reflectzoo.errors import NotFinite, UserError
from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.losses.weighted_sum import WeightedSum
from reflectzoo.metrics.layers import LayerMetrics
from reflectzoo.nets.batchnorm import share_batch_norm
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import load_vgg19
from reflectzoo.weights.stored import stored_network

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class ReflectionModule(pl.LightningModule):
    """Trains a network with a loss; subclasses say only what is different.

    Args:
        net: ``forward(mixture) -> Outputs``, any image size.
        loss: named terms.
        optimizer: makes an optimiser from parameters, e.g. ``partial(torch.optim.Adam, lr=1e-4)``.
        scheduler: makes a learning-rate schedule, stepped once an epoch; None for a constant rate.
        name: the name under which the method was configured, e.g. ``ytmt_ucs``; a checkpoint remembers it.
        epochs: length of the recipe (``trainer.max_epochs`` follows it).
        vgg: where a frozen VGG-19 comes from, if anything looks through one: ``auto``, ``imagenet``, ``random``
            or a path (see :func:`reflectzoo.nets.vgg.load_vgg19`).
    """

    @checked("model")
    def __init__(
        self,
        net: nn.Module,
        loss: WeightedSum,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        name: str = "unnamed",
        epochs: Count = 1,
        vgg: str = "auto",
    ) -> None:
        super().__init__()
        # Plain values only: anything else would keep the checkpoint from loading with weights_only=True.
        self.save_hyperparameters("name", "epochs", "vgg")
        self.net = net
        self.loss = loss
        self.make_optimizer = optimizer
        # The empty configuration of scheduler=none is no schedule, either.
        self.make_scheduler = scheduler or None
        self.name = name
        self.vgg_source = vgg
        self.config: dict[str, Any] | None = None
        """The resolved configuration this module was built from; the network's part travels in the checkpoint."""
        self.eval_names: Sequence[str] = ()
        self.metrics = nn.ModuleList()
        self._vgg_used: dict[str, str] | None = None
        self._seed: int | None = None

    # -- looking ----------------------------------------------------------------------------------------------------

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture (B, 3, H, W) in [0, 1]; outputs have the same size."""
        return cast(Outputs, self.net(mixture))

    def predict_batch(self, batch: Batch) -> Outputs:
        """The outputs for a batch; methods that look at more than the mixture override it."""
        return cast(Outputs, self(batch["mixture"]))

    def compiled_parts(self) -> list[nn.Module]:
        """What ``compile=true`` compiles, each a module that is called as a whole."""
        return [self.net]

    # -- learning ---------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> int:
        """Training phase, 0-based; methods that train in phases override it."""
        return 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let what a step draws (dropout) follow from its number, so that a training that was interrupted goes on."""
        if self._seed is None:
            self._seed = torch.initial_seed()
        torch.manual_seed(sample_seed(self._seed + self.global_rank, self.current_epoch, batch_idx))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step on a complete batch; logs every loss term."""
        total, parts = self.loss(self.predict_batch(batch), batch, phase=self.phase, epoch=self.current_epoch)
        self.check_finite(total, parts)
        self.log_losses(total, parts, len(batch["name"]))
        return cast(Tensor, total)

    def log_losses(self, total: Tensor, parts: Mapping[str, Tensor], batch_size: int) -> None:
        """Log the weighted total and the unweighted terms under ``train/``."""
        # Under distributed training every process must log the same curve: the mean over processes.
        many = self.trainer.world_size > 1
        self.log("train/total", total.detach(), prog_bar=True, batch_size=batch_size, sync_dist=many)
        for key, value in parts.items():
            self.log(f"train/{key}", value, batch_size=batch_size, sync_dist=many)

    def check_finite(self, total: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Stop before a broken loss reaches the weights.

        Raises:
            NotFinite: naming the terms that are not.
        """
        if bool(torch.isfinite(total)):
            return
        broken = ", ".join(key for key, value in parts.items() if not torch.isfinite(value)) or "their sum"
        raise NotFinite(
            f"The loss is {float(total)} in epoch {self.current_epoch} ({broken}): training stops before this reaches "
            "the weights, and the checkpoints already written are untouched; try trainer.precision=32-true or "
            "another loss, or look for a bad image in this data"
        )

    def param_groups(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser gets."""
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """One optimiser, and its schedule if there is one.

        Raises:
            UserError: if the loss has an adversarial term, which needs an
                :class:`~reflectzoo.training.adversarial.AdversarialModule`.
        """
        for key, term in self.loss.terms.items():
            if isinstance(term, AdversarialLoss):
                raise UserError(
                    f"model={self.name} does not train a discriminator, so it cannot use loss.terms.{key}: "
                    f"leave it out with ~loss.terms.{key}."
                )
        optimizer = self.make_optimizer(self.param_groups())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "name": "lr"}}

    # -- measuring --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Attach the frozen VGG, and prepare one set of metrics for each data set of the stage."""
        self.attach_vgg()
        # Lightning does so only after it has loaded a checkpoint, whose 64-true weights would be rounded.
        self.trainer.precision_plugin.convert_module(self)
        if self.trainer.world_size > 1:
            share_batch_norm(self)
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        key = "test_names" if stage == "test" else "eval_names"
        self.eval_names = list(getattr(datamodule, key, None) or [("test" if stage == "test" else "val")])
        self.metrics = nn.ModuleList(LayerMetrics() for _ in self.eval_names).to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        for metrics in self.metrics:
            cast(LayerMetrics, metrics).reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Outputs:
        """Score one batch of data set ``dataloader_idx``; returns the outputs, for callbacks that draw them."""
        outputs = self.predict_batch(batch)
        cast(LayerMetrics, self.metrics[dataloader_idx]).update(outputs, batch)
        return outputs

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<set>/<metric>`` and the mean over the data sets, ``val/mean/<metric>``."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/<set>/<metric>`` and the mean over the data sets, ``test/mean/<metric>``."""
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        collected: dict[str, list[Tensor]] = {}
        for name, metrics in zip(self.eval_names, self.metrics, strict=True):
            for key, value in cast(LayerMetrics, metrics).compute().items():
                collected.setdefault(key, []).append(value)
                self.log(f"{stage}/{name}/{key}", value, rank_zero_only=False, sync_dist=False)
        for key, values in collected.items():
            shown = stage == "val" and key == "psnr"
            self.log(f"{stage}/mean/{key}", torch.stack(values).mean(), prog_bar=shown, sync_dist=False)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Names and clamped layers of one batch."""
        outputs: Any = self.predict_batch(batch)
        layers = {key: outputs[key].clamp(0, 1) for key in ("transmission", "reflection") if key in outputs}
        return {"name": batch["name"], **layers}

    # -- remembering ------------------------------------------------------------------------------------------------

    def attach_vgg(self) -> None:
        """Load the frozen VGG once, if the network or the loss looks through one."""
        if self._vgg_used is None and needs_vgg(self.net, self.loss):
            vgg = load_vgg19(self.vgg_source).to(self.device)
            attach_vgg(self, vgg)
            self._vgg_used = {"source": vgg.source, "fingerprint": vgg.fingerprint}

    def expect_vgg(self, source: str) -> None:
        """Before anything is loaded: ``vgg=auto`` is to mean what a checkpoint was trained with."""
        if self._vgg_used is None and self.vgg_source == "auto":
            self.vgg_source = source

    @property
    def vgg_used(self) -> dict[str, str] | None:
        """``{"source", "fingerprint"}`` of the attached VGG, or None."""
        return self._vgg_used

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down which network this is, its settings, the training phase, and which VGG it looked through.

        Raises:
            NotFinite: if weights are broken, so that they never replace good ones.
        """
        for key, value in checkpoint["state_dict"].items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NotFinite(
                    f"The weight '{key}' is not finite in epoch {self.current_epoch}: nothing is saved, and the "
                    "checkpoints already written are untouched; try trainer.precision=32-true, a smaller "
                    "optimizer.lr, or clipping"
                )
        record = stored_network(self.name, None if self.config is None else self.config["net"])
        checkpoint["reflectzoo"] = {**record, "phase": self.phase, "vgg": self._vgg_used}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another method or one that looked through another VGG.

        Raises:
            UserError: in one sentence.
        """
        record = checkpoint.get("reflectzoo") or {}
        if record.get("model", self.name) != self.name:
            raise UserError(
                f"This checkpoint was made by model={record['model']}, not by model={self.name}: "
                f"use model={record['model']}, or another checkpoint."
            )
        used = record.get("vgg")
        if not used or not needs_vgg(self.net, self.loss):
            return
        self.expect_vgg(used["source"])
        self.attach_vgg()
        assert self._vgg_used is not None
        if self._vgg_used["fingerprint"] != used["fingerprint"]:
            if self.vgg_source == "auto":
                # Weights appeared or vanished since: go on with what the checkpoint has learnt to see through.
                self.vgg_source, self._vgg_used = used["source"], None
                self.attach_vgg()
            if self._vgg_used is None or self._vgg_used["fingerprint"] != used["fingerprint"]:
                raise UserError(
                    f"This checkpoint was trained with VGG-19 weights '{used['source']}', but model.vgg="
                    f"{self.vgg_source} gives others: set model.vgg={used['source']}."
                )
