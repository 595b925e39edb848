"""Comparison of loss values and their gradients with recordings, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from reflectzoo.config import build, config_dir
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.adversarial import AdversarialLoss, GANKind, discriminator_loss, generator_loss
from reflectzoo.losses.exclusion import exclusion_loss
from reflectzoo.losses.perceptual import PROGRAM_LAYERS, perceptual_loss
from reflectzoo.losses.pixel import PixelLoss, gradient_loss, mse_loss
from reflectzoo.losses.reconstruction import reconstruction_loss
from reflectzoo.losses.weighted_sum import WeightedSum
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.parity import (
    Case,
    CaseResult,
    Comparison,
    Fixture,
    ParityError,
    compare_scalar,
    compare_tensor,
    recorded_input,
    rule_state_dict,
    rule_vgg,
)

_RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-6}
_VGG_LAYERS = {2: "relu1_1", 7: "relu2_1", 12: "relu3_1", 21: "relu4_1", 30: "relu5_1"}
"""Position in VGG-19's list of layers, counted from one as in the recordings -> name of the layer."""

_NOT_IN_TOTALS = ("reconsx_pred_t_vs_input", "mtv", "ktv", "ssim_loss_t")
"""Values that the program can compute, but that are part of none of its totals; this zoo lacks these terms."""


class _Setting:
    """Images of one case in one precision, and the loss configured by ``loss=ytmt``, with the rule's weights."""

    def __init__(self, images: Mapping[str, Tensor], loss: WeightedSum, dtype: torch.dtype) -> None:
        self.images = {name: image.to(dtype) for name, image in images.items()}
        self.loss = loss
        self.dtype = dtype
        self.adversarial = cast(AdversarialLoss, loss.terms["adversarial"])
        self.outputs: Outputs = {"transmission": self.images["pred_t"], "reflection": self.images["pred_r"]}
        known = torch.ones(len(self.images["input"]), dtype=torch.bool)
        names = [str(index) for index in range(len(known))]
        self.batch: Batch = {
            "mixture": self.images["input"],
            "transmission": self.images["target_t"],
            "reflection": self.images["target_r"],
            "has_transmission": known,
            "has_reflection": known,
            "name": names,
            "dataset": names,
        }
        # Values that need the VGG or the discriminator are expensive and used several times.
        self.logit = lru_cache(self._logit)
        self.total = lru_cache(self._total)

    @torch.no_grad()
    def _logit(self, image: str) -> Tensor:
        return cast(Tensor, self.adversarial.discriminator(self.images[image]))

    @torch.enable_grad()
    def _total(self, stage: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a stage, and its gradient with respect to each prediction."""
        predictions = {name: self.images[name].clone().requires_grad_() for name in ("pred_t", "pred_r")}
        outputs: Outputs = {"transmission": predictions["pred_t"], "reflection": predictions["pred_r"]}
        # Epoch 20 is the first of stage 1 with the adversarial term; in stage 2, it is on from the start.
        total, _parts = self.loss(outputs, self.batch, phase=stage - 1, epoch=20)
        gradients = torch.autograd.grad(total, list(predictions.values()))
        return total.detach(), dict(zip(predictions, gradients, strict=True))


class _YTMTLosses:
    """All terms and both totals of YTMT's released program."""

    def matches(self, fixture: Fixture) -> bool:
        has_values = any("values" in case for case in fixture.cases)
        return has_values and (fixture.comes_from("YTMT-Strategy", "models/losses.py") or fixture.name == "losses_ytmt")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        losses = {dtype: _configured_loss(dtype) for dtype in (torch.float32, torch.float64)}

        def run(case: Case) -> CaseResult:
            images = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            comparisons: list[Comparison] = []
            left_out: list[str] = []
            for dtype, recorded in ((torch.float32, "values"), (torch.float64, "values_float64")):
                setting = _Setting(images, losses[dtype], dtype)
                values, left_out = _compare_values(setting, case.get(recorded) or {})
                comparisons += values
                if dtype == torch.float32:
                    comparisons += _compare_tensors(fixture, case, setting)
            note = f"not in the SIRS total, skipped: {', '.join(left_out)}" if left_out else ""
            return CaseResult(comparisons, note)

        return run


def _configured_loss(dtype: torch.dtype) -> WeightedSum:
    """``loss=ytmt`` as used in training, but with the rule's weights in the discriminator and VGG."""
    loss = cast(WeightedSum, build(cast(DictConfig, OmegaConf.load(f"{config_dir()}/loss/ytmt.yaml"))))
    discriminator = cast(AdversarialLoss, loss.terms["adversarial"]).discriminator
    discriminator.load_state_dict(rule_state_dict(discriminator, gain=1.6, exceptions={"tail.3.weight": 4.0}))
    loss.to(dtype)
    # After the conversion, which would otherwise also change the precision of the shared VGG.
    attach_vgg(loss, rule_vgg(dtype))
    return loss


@torch.no_grad()
def _compare_values(setting: _Setting, recorded: Mapping[str, float]) -> tuple[list[Comparison], list[str]]:
    comparisons, left_out = [], []
    tolerance = _RELATIVE[setting.dtype]
    for name, value in recorded.items():
        if name in _NOT_IN_TOTALS:
            left_out.append(name)
            continue
        found = float(_value(name, setting))
        comparisons.append(compare_scalar(f"{name} in {_short(setting.dtype)}", found, value, tolerance))
    return comparisons, left_out


def _value(name: str, setting: _Setting) -> Tensor:
    """Compute one value by its name in the recordings.

    Raises:
        ParityError: for an unknown name.
    """
    pred_t, target_t, pred_r, mixture = (setting.images[key] for key in ("pred_t", "target_t", "pred_r", "input"))
    outputs, batch, terms = setting.outputs, setting.batch, setting.loss.terms
    if match := re.fullmatch(r"exclusion_level(\d+)", name):
        return exclusion_loss(pred_t, pred_r, levels=int(match[1]))
    if (match := re.fullmatch(r"vgg_t_layer(\d+)_unweighted", name)) and int(match[1]) in _VGG_LAYERS:
        return perceptual_loss(rule_vgg(setting.dtype), pred_t, target_t, {_VGG_LAYERS[int(match[1])]: 1.0})
    if match := re.fullmatch(r"gan_(sgan|rsgan|rasgan)_([gd])", name):
        function = generator_loss if match[2] == "g" else discriminator_loss
        return function(cast(GANKind, match[1]), setting.logit("pred_t"), setting.logit("target_t"))
    match name:
        case "mse_t":
            return mse_loss(pred_t, target_t)
        case "gradient_t":
            return gradient_loss(pred_t, target_t)
        case "t_pixel":
            return cast(Tensor, terms["transmission_pixel"](outputs, batch))
        case "r_pixel":
            return cast(Tensor, terms["reflection_pixel"](outputs, batch))
        case "r_pixel_intended_but_unused":
            return cast(Tensor, PixelLoss("reflection", mse=0.9, gradient=0.0)(outputs, batch))
        case "recons":
            return reconstruction_loss(pred_t, pred_r, mixture)
        case "recons_edge":
            return reconstruction_loss(pred_t, pred_r, mixture) + 5 * gradient_loss(pred_t + pred_r, mixture)
        case "vgg_t":
            return cast(Tensor, terms["perceptual"](outputs, batch))
        case "vgg_t_not_normalised":
            return perceptual_loss(rule_vgg(setting.dtype), pred_t, target_t, PROGRAM_LAYERS, normalise=False)
        case "stage1_loss_d" | "stage2_loss_d":
            return setting.adversarial.discriminator_loss(outputs, batch, phase=int(name[5]) - 1)
        case "stage2_loss_d_candidate_t":
            return discriminator_loss("rasgan", setting.logit("pred_t"), setting.logit("target_t"))
        case "stage2_loss_d_candidate_r":
            return discriminator_loss("rasgan", setting.logit("pred_r"), setting.logit("target_t"))
        case "stage1_total_g" | "stage1_parts_sum_check" | "stage2_total_g":
            return setting.total(int(name[5]))[0]
    raise ParityError(f"no loss value '{name}' is known")


def _compare_tensors(fixture: Fixture, case: Case, setting: _Setting) -> list[Comparison]:
    """Compare logits and gradients of the totals, in the precision of the recording."""
    comparisons: list[Comparison] = []
    for spec in case.get("outputs") or []:
        name, recorded = str(spec["name"]), fixture.tensor(spec["npz"])
        if match := re.fullmatch(r"logit_(fake|real)", name):
            found = setting.logit("pred_t" if match[1] == "fake" else "target_t")
            comparisons.append(compare_tensor(name, found, recorded, 1e-5 * max(1.0, float(recorded.abs().max()))))
        elif match := re.fullmatch(r"stage([12])_grad_(pred_[tr])", name):
            found = setting.total(int(match[1]))[1][match[2]]
            noise = float((case.get("gradient_noise") or {}).get(f"stage{match[1]}", 0.0))
            comparisons += _compare_gradient(name, found, recorded, noise)
        else:
            raise ParityError(f"no loss output '{name}' is known")
    return comparisons


def _compare_gradient(name: str, found: Tensor, recorded: Tensor, noise: float) -> list[Comparison]:
    # The L1 terms have kinks: where two values are equal up to rounding, the sign of one summand of the gradient may
    # flip (through the VGG, within a whole receptive field). Hence the tolerance is the recorded float32 error, and in
    # addition the relative norm of the difference must be small, so that such positions are few.
    largest = max(noise, 1e-5 * float(recorded.abs().max()))
    off = float((found - recorded).norm() / recorded.norm())
    return [compare_tensor(name, found, recorded, largest), Comparison(f"{name} as a whole", off, 1e-2)]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


RUNNERS = (_YTMTLosses(),)
