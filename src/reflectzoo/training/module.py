"""The LightningModule shared by all methods: training, validation, prediction and checkpoint contents."""

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
from reflectzoo.core.method import Size
from reflectzoo.core.registry import find_method
from reflectzoo.core.settings import checked
from reflectzoo.data.seeding import sample_seed
from reflectzoo.errors import NotFinite, UserError
from reflectzoo.inference.working_size import separate_resized
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
    """Trains a network with a loss; subclasses override only what differs.

    Args:
        net: ``forward(mixture) -> Outputs``, for any image size.
        loss: weighted sum of named terms.
        optimizer: makes an optimiser from parameters, e.g. ``partial(torch.optim.Adam, lr=1e-4)``.
        scheduler: makes a learning-rate schedule, stepped once per epoch; None for a constant rate.
        name: name of the configured model, e.g. ``ytmt_ucs``; stored in checkpoints.
        epochs: length of the recipe in epochs (default of ``trainer.max_epochs``).
        vgg: source of the frozen VGG-19, if network or loss use one: ``auto``, ``imagenet``, ``random`` or a path (see
            :func:`reflectzoo.nets.vgg.load_vgg19`).
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
        # Plain values only: anything else would prevent loading the checkpoint with weights_only=True.
        self.save_hyperparameters("name", "epochs", "vgg")
        self.net = net
        self.loss = loss
        self.make_optimizer = optimizer
        # scheduler=none composes to an empty mapping, which also means no schedule.
        self.make_scheduler = scheduler or None
        self.name = name
        self.vgg_source = vgg
        self.config: dict[str, Any] | None = None
        """The resolved configuration of this module; the network's part is stored in checkpoints."""
        self.eval_names: Sequence[str] = ()
        self.metrics = nn.ModuleList()
        self._vgg_used: dict[str, str] | None = None
        self._seed: int | None = None

    # -- inference --------------------------------------------------------------------------------------------------

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate mixtures (B, 3, H, W) in [0, 1] into layers of the same size, which are not clamped."""
        return cast(Outputs, self.net(mixture))

    def predict_batch(self, batch: Batch) -> Outputs:
        """The outputs for a batch; overridden by methods whose input is more than the mixture."""
        return cast(Outputs, self(batch["mixture"]))

    def predict_in_use(self, batch: Batch) -> Outputs:
        """The outputs as in ``reflectzoo remove``: from the model's working size, mirrored if the model says so."""
        method = find_method(self.name)
        size = method.size_of(self.name) if method is not None else Size()
        mirrored = method is not None and method.models[self.name].mirrored
        if size.working is None and not mirrored:
            return self.predict_batch(batch)
        return cast(Outputs, separate_resized(self, batch["mixture"], size, mirrored))

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that ``compile=true`` compiles, each of which is only called as a whole."""
        return [self.net]

    # -- training ---------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> int:
        """Training phase, 0-based; overridden by methods that train in phases."""
        return 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed torch by the number of the step, so that a resumed run draws the same numbers, e.g. for dropout."""
        if self._seed is None:
            self._seed = torch.initial_seed()
        torch.manual_seed(sample_seed(self._seed + self.global_rank, self.current_epoch, batch_idx))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Compute the loss of a complete batch and log every term."""
        total, parts = self.loss(self.predict_batch(batch), batch, phase=self.phase, epoch=self.current_epoch)
        self.check_finite(total, parts)
        self.log_losses(total, parts, len(batch["name"]))
        return cast(Tensor, total)

    def log_losses(self, total: Tensor, parts: Mapping[str, Tensor], batch_size: int) -> None:
        """Log the weighted total and the unweighted terms under ``train/``; averaged over processes, if several."""
        many = self.trainer.world_size > 1
        self.log("train/total", total.detach(), prog_bar=True, batch_size=batch_size, sync_dist=many)
        for key, value in parts.items():
            self.log(f"train/{key}", value, batch_size=batch_size, sync_dist=many)

    def check_finite(self, total: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Stop training before a non-finite loss reaches the weights.

        Raises:
            NotFinite: if ``total`` is not finite; names the terms in question.
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
        """The parameters to optimise: those of the network that require a gradient."""
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """Make the optimiser and its schedule, if any.

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

    # -- scoring ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Attach the frozen VGG, synchronise batch norm over processes, and make metrics for each data set."""
        self.attach_vgg()
        # Lightning converts only after loading a checkpoint, whose 64-true weights would then have been rounded.
        self.trainer.precision_plugin.convert_module(self)
        if self.trainer.world_size > 1:
            share_batch_norm(self)
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        key = "test_names" if stage == "test" else "eval_names"
        self.eval_names = list(getattr(datamodule, key, None) or [("test" if stage == "test" else "val")])
        self.metrics = nn.ModuleList(LayerMetrics() for _ in self.eval_names).to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Reset all metrics."""
        for metrics in self.metrics:
            cast(LayerMetrics, metrics).reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Outputs:
        """Score one batch of data set ``dataloader_idx``; return the outputs for callbacks that draw them."""
        outputs = self.predict_in_use(batch)
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
        """The names and layers of one batch, the layers clamped to [0, 1]."""
        outputs: Any = self.predict_in_use(batch)
        layers = {key: outputs[key].clamp(0, 1) for key in ("transmission", "reflection") if key in outputs}
        return {"name": batch["name"], **layers}

    # -- checkpoints and VGG ----------------------------------------------------------------------------------------

    def attach_vgg(self) -> None:
        """Load and attach the frozen VGG if the network or the loss uses one; idempotent."""
        if self._vgg_used is None and needs_vgg(self.net, self.loss):
            vgg = load_vgg19(self.vgg_source).to(self.device)
            attach_vgg(self, vgg)
            self._vgg_used = {"source": vgg.source, "fingerprint": vgg.fingerprint}

    def expect_vgg(self, source: str) -> None:
        """Make ``vgg=auto`` resolve to the source a checkpoint was trained with; no effect once a VGG is attached."""
        if self._vgg_used is None and self.vgg_source == "auto":
            self.vgg_source = source

    @property
    def vgg_used(self) -> dict[str, str] | None:
        """``{"source", "fingerprint"}`` of the attached VGG, or None."""
        return self._vgg_used

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the network, its settings, the training phase and the VGG in the checkpoint.

        Raises:
            NotFinite: if any weight is not finite, so that it never replaces a good checkpoint.
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
        """Check that a checkpoint belongs to this method and was trained with the same VGG.

        Raises:
            UserError: if it does not, or was not.
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
                # VGG weights appeared or vanished since: use those that the checkpoint was trained with.
                self.vgg_source, self._vgg_used = used["source"], None
                self.attach_vgg()
            if self._vgg_used is None or self._vgg_used["fingerprint"] != used["fingerprint"]:
                raise UserError(
                    f"This checkpoint was trained with VGG-19 weights '{used['source']}', but model.vgg="
                    f"{self.vgg_source} gives others: set model.vgg={used['source']}."
                )
