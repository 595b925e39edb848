"""Training of Location-aware SIRR: one fit, whose second phase adds unaligned pairs."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reflectzoo.core.annotations import NotNegative, Positive
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.composition import ConfidenceLoss, ConfidenceMaskLoss
from reflectzoo.losses.iterations import OverIterations
from reflectzoo.methods.location_aware import METHOD
from reflectzoo.methods.location_aware.metrics import ConfidenceMetrics
from reflectzoo.methods.location_aware.net import LocationAwareNet
from reflectzoo.nets.start import init_as_copy, start_he, start_normal, weight_of
from reflectzoo.training.adversarial import AdversarialModule
from reflectzoo.weights.layouts import start_from


class LocationAware(AdversarialModule):
    """Location-aware Single Image Reflection Removal (Dong et al., ICCV 2021), Sec. 5.

    The two phases differ in the learning rate, set by the schedule, and in the data, set by ``data.later``: one fit
    covers both and can be resumed in either. ``stage1_ckpt`` starts from a finished first phase.

    Args:
        init: initialisation of a new network. ``normal``: weights from N(0, ``init_std``^2), zero biases, PReLU slopes
            of 0.25, the Laplacian kernel unchanged. ``copy``: weights after He et al., with every transmission starting
            as a copy of the previous one, the first of the input, for short training runs; ``copy_input``: as a copy of
            the input itself, for shorter ones (see :func:`start_as_copy`).
        init_std: standard deviation for ``normal``. The paper's "variance: 0.02" would be 0.1414, with which a new
            network's third transmission is of the order of 1e33 and its loss not finite. 0.02 is the value in the
            program of IBCLN, whose training the paper follows.
        detection_epochs: number of initial epochs in which only the detection of the first iteration is trained: the
            rest is not computed, and loss terms that do not use the map start afterwards. An addition of reflectzoo,
            not used in the recipe: these epochs are cheap, and all later parts depend on the map.
        clip_kernel: maximum gradient norm of the Laplacian kernel, the only one clipped; None disables clipping (Table
            2, "w/o GC in MLSM").
        stage1_ckpt: weights to start from: a checkpoint of reflectzoo or the authors' ``model.pth``.
        **kwargs: as for :class:`~reflectzoo.training.adversarial.AdversarialModule`.

    Raises:
        UserError: for an unknown ``init``, a ``stage1_ckpt`` that does not fit, or ``detection_epochs`` without a
            confidence map or a loss term that trains it.
    """

    @checked("model")
    def __init__(
        self,
        *args: Any,
        init: Literal["normal", "copy", "copy_input"] = "normal",
        init_std: Positive = 0.02,
        detection_epochs: NotNegative = 0,
        clip_kernel: Positive | None = 0.25,
        stage1_ckpt: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("init", "init_std", "detection_epochs", "clip_kernel")
        self.detection_epochs = detection_epochs
        self._put_detection_first()
        self.clip_kernel = clip_kernel
        if stage1_ckpt is not None:
            start_from(self.net, stage1_ckpt, "model.stage1_ckpt", METHOD)
        elif init == "normal":
            start_normal(self.net, init_std)
        else:
            start_as_copy(cast(LocationAwareNet, self.net), of_input=init == "copy_input")
        if stage1_ckpt is None and cast(LocationAwareNet, self.net).looks_up:
            for convolution in cast(LocationAwareNet, self.net).seen:  # the frozen features are blended in gradually
                nn.init.zeros_(cast(nn.Conv2d, convolution).weight)
        self.confidence_metrics = nn.ModuleList()

    # -- training ---------------------------------------------------------------------------------------------------

    def predict_batch(self, batch: Batch) -> Outputs:
        """The outputs for a batch; only the confidence map in the first ``detection_epochs`` of training."""
        if not self.training or self.current_epoch >= self.detection_epochs:
            return super().predict_batch(batch)
        mixture = batch["mixture"]
        confidence = cast(LocationAwareNet, self.net).detect(mixture)
        return {
            "transmission": mixture,
            "reflection": torch.zeros_like(mixture),
            "aux": {"confidence": [confidence]},
        }

    def _put_detection_first(self) -> None:
        """Delay loss terms that do not use the map; raise UserError if there is no map or no term that trains it."""
        epochs = self.detection_epochs
        if epochs == 0:
            return
        if cast(LocationAwareNet, self.net).detection == "none":
            raise UserError("model.detection_epochs trains the confidence map, and model.net.detection=none has none.")
        others = [cast(LossTerm, term) for term in self.loss.terms.values() if not _teaches_the_map(term)]
        if len(others) == len(self.loss.terms):
            raise UserError(
                "model.detection_epochs trains the confidence map, but no loss term uses it: add "
                "loss.terms.confidence as loss=location_aware has it, or set model.detection_epochs=0."
            )
        for term in others:
            starts = [term.start_epoch] if isinstance(term.start_epoch, int) else term.start_epoch
            term.start_epoch = [max(start, epochs) for start in starts]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Also clip the gradient of the Laplacian kernel."""
        super().on_before_optimizer_step(optimizer)
        kernel = self._kernel()
        if self.clip_kernel is None or kernel is None or kernel.grad is None:
            return
        # Not in the discriminator's step, during which the kernel's accumulated gradient may be incomplete.
        if any(each is kernel for group in optimizer.param_groups for each in group["params"]):
            torch.nn.utils.clip_grad_norm_([kernel], self.clip_kernel)

    def _kernel(self) -> nn.Parameter | None:
        pyramid = getattr(self.net, "lap_pyramid", None)
        return None if pyramid is None else cast(nn.Parameter, pyramid.kernel)

    # -- scoring ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Also prepare the metrics of the confidence map."""
        super().setup(stage)
        self.confidence_metrics = nn.ModuleList(ConfidenceMetrics() for _ in self.eval_names).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Outputs:
        """Also score the confidence map (see :class:`~reflectzoo.methods.location_aware.metrics.ConfidenceMetrics`)."""
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        cast(ConfidenceMetrics, self.confidence_metrics[dataloader_idx]).update(outputs, batch)
        return outputs

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Reset all metrics."""
        super().on_validation_epoch_start()
        for metrics in self.confidence_metrics:
            cast(ConfidenceMetrics, metrics).reset()

    on_test_epoch_start = on_validation_epoch_start

    def _log_metrics(self, stage: str) -> None:
        super()._log_metrics(stage)
        for name, metrics in zip(self.eval_names, self.confidence_metrics, strict=True):
            for key, value in cast(ConfidenceMetrics, metrics).compute().items():
                self.log(f"{stage}/{name}/{key}", value, rank_zero_only=False, sync_dist=False)


def _teaches_the_map(term: nn.Module) -> bool:
    inner = term.term if isinstance(term, OverIterations) else term
    return isinstance(inner, ConfidenceLoss | ConfidenceMaskLoss)


@torch.no_grad()
def start_as_copy(net: LocationAwareNet, of_input: bool = False) -> None:
    """Initialise after He et al. with zero biases and three channels that pass an image through unchanged.

    They pass through the first convolution, the first skip connection and the last two layers, so that every
    iteration's transmission starts as the mixture and the network only learns what to remove. Layers before an output
    are scaled by 0.1: Adam's first steps are as long for large inputs as for small ones and would spoil the copy or
    leave a head without gradient. The reflection starts near 0.1 everywhere, since at zero its ReLU and the gamma in
    its loss would give no gradient.

    Args:
        net: changed in place.
        of_input: False passes on the previous transmission, so that the corrections of all iterations add up: they are
            learnt sooner, and sooner become too large. True passes on the mixture, so that each iteration starts anew;
            the confidence map then starts at 0.3, about its mean, instead of 0.5.

    Raises:
        UserError: if a layer has fewer than three channels to carry the image.
    """
    start_he(net)
    outputs = [net.det_conv_mask1] if net.detection == "none" else [net.det_conv_mask1, net.det_conv_mask0]
    for layer in (head[index] for head in outputs for index in (0, 2)):
        weight_of(layer).mul_(0.1)
    first, up, last, output = (layer[0] for layer in (net.conv1, net.deconv2, net.conv10, net.output))
    init_as_copy(cast(Any, first), cast(Any, up), cast(Any, last), cast(Any, output), channel=0 if of_input else 3)
    # The residual block adds nothing to these three channels.
    weight_of(net.cbam_block0.conv2.conv2d)[:3] = 0
    nn.init.constant_(cast(Tensor, net.det_conv_mask1[2].bias), 0.1)
    if of_input and net.detection != "none":
        nn.init.constant_(cast(Tensor, net.det_conv_mask0[2].bias), 0.8)
