"""Recordings of CoRRN's network and losses, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from reflectzoo.config import build, config_dir
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.ssim import ssim_loss
from reflectzoo.losses.weighted_sum import WeightedSum
from reflectzoo.methods.corrn.net import CoRRNNet
from reflectzoo.methods.corrn.statistic import mmd
from reflectzoo.methods.corrn.structure import structure_loss
from reflectzoo.ops.ssim import gaussian_window
from reflectzoo.parity import (
    NETWORK_LIMIT,
    Case,
    CaseResult,
    Comparison,
    Fixture,
    ParityError,
    check_parameter_count,
    compare_intermediates,
    compare_outputs,
    compare_scalar,
    compare_tensor,
    load_recorded_weights,
    recorded_input,
    watched,
)


class _Network:
    """ReflectionNetwork in both modes; in training mode also the updated running statistics."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.class_name == "ReflectionNetwork" and fixture.comes_from("CoRRN")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = CoRRNNet()
        load_recorded_weights(net, fixture)
        check_parameter_count(net, fixture)
        state = {key: value.clone() for key, value in net.state_dict().items()}

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            training = case.get("mode") == "train"
            # Normalisation by so few values amplifies rounding: in training mode the authors' float32 result differs by
            # up to 5e-5 from their float64 one, and ours in the other direction. In float64 only their error remains.
            dtype = torch.float64 if training else torch.float32
            net.to(dtype).train(training)
            net.load_state_dict(state)
            (spec,) = case["inputs"]
            with watched(net, case) as seen:
                outputs = net(recorded_input(fixture, spec).to(dtype))
            found = {
                "background": outputs["transmission"],
                "reflection": outputs["reflection"],
                "contour": outputs["aux"]["gradient"],
            }
            comparisons = compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT)
            inner, absent = compare_intermediates(fixture, case, seen, NETWORK_LIMIT)
            comparisons += inner + _compare_buffers(fixture, case, net)
            return CaseResult(comparisons, f"{absent} intermediate tensors have no counterpart" if absent else "")

        return run


def _compare_buffers(fixture: Fixture, case: Case, net: nn.Module) -> list[Comparison]:
    """Compare running statistics and counters after the forward pass, as far as they were recorded."""
    buffers = dict(net.named_buffers())
    comparisons = []
    for spec in case.get("buffers_after") or []:
        key = str(spec["key"])
        recorded = fixture.tensor(spec["npz"])
        comparisons.append(compare_tensor(key, buffers[key], recorded, NETWORK_LIMIT))
    counts: Mapping[str, Any] = case.get("num_batches_tracked_after") or {}
    if counts:
        three, (others,) = set(counts["three"]), counts["all_others"]
        wrong = [
            key
            for key, value in buffers.items()
            if key.endswith("num_batches_tracked") and int(value) != (3 if key in three else others)
        ]
        comparisons.append(Comparison("counters of batches that differ", float(len(wrong)), 0.5))
    return comparisons


class _Losses:
    """Every loss term and the totals of CoRRN's program, with the weights of ``loss=corrn_program``."""

    def matches(self, fixture: Fixture) -> bool:
        has_values = any("values" in case for case in fixture.cases)
        return has_values and (fixture.comes_from("CoRRN", "MMDLoss.py") or fixture.name == "losses_corrn")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        loss = cast(WeightedSum, build(cast(DictConfig, OmegaConf.load(f"{config_dir()}/loss/corrn_program.yaml"))))

        def run(case: Case) -> CaseResult:
            images = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            comparisons: list[Comparison] = []
            left_out: list[str] = []
            for dtype, recorded in ((torch.float32, "values"), (torch.float64, "values_float64")):
                cast_images = {name: image.to(dtype) for name, image in images.items()}
                for name, value in (case.get(recorded) or {}).items():
                    if name in _UNUSED or (name in _TINY and dtype == torch.float32):
                        left_out += [name] if dtype == torch.float64 else []
                        continue
                    what = f"{name} in {str(dtype).removeprefix('torch.')}"
                    found = float(_value(name, cast_images, loss))
                    comparisons.append(compare_scalar(what, found, value, _RELATIVE[dtype]))
            comparisons += _compare_loss_tensors(fixture, case, images)
            return CaseResult(comparisons, f"unused by the program, skipped: {', '.join(left_out)}" if left_out else "")

        return run


_RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-6}
_UNUSED = ("distribution_kl_t",)
_TINY = ("mmd_t", "mmd_r")
"""Differences of numbers near 1, of which the program's float32 has at most one correct digit."""


@torch.no_grad()
def _value(name: str, images: Mapping[str, Tensor], loss: WeightedSum) -> Tensor:
    """Compute one value by its name in the recordings.

    Raises:
        ParityError: for an unknown name.
    """
    pred_t, target_t, pred_r, target_r = (images[key] for key in ("pred_t", "target_t", "pred_r", "target_r"))
    known = torch.ones(len(pred_t), dtype=torch.bool)
    names = [str(index) for index in range(len(known))]
    outputs: Outputs = {"transmission": pred_t, "reflection": pred_r}
    batch: Batch = {
        "mixture": images["input"],
        "transmission": target_t,
        "reflection": target_r,
        "has_transmission": known,
        "has_reflection": known,
        "name": names,
        "dataset": names,
    }

    def term(key: str) -> Tensor:
        return cast(Tensor, loss.terms[key](outputs, batch))

    def total(*keys: str) -> Tensor:
        return torch.stack([cast(LossTerm, loss.terms[key]).weight_at(0, 0) * term(key) for key in keys]).sum()

    background = ("transmission_ssim", "transmission_l1", "transmission_statistic")
    reflection = ("reflection_ssim", "reflection_statistic")
    # The ground truth of the gradient is also recorded, not computed from the transmission.
    structure = structure_loss(images["pred_gradient"], images["target_gradient"])
    match name:
        case "ssim_t":
            return term("transmission_ssim")
        case "ssim_r":
            return term("reflection_ssim")
        case "l1_t":
            return term("transmission_l1")
        case "mmd_t":
            return term("transmission_statistic")
        case "mmd_r":
            return term("reflection_statistic")
        case "mmd_function":
            return mmd(images["mmd_x"], images["mmd_y"])
        case "si_gradient":
            return structure
        case "background_total":
            return total(*background)
        case "reflection_total":
            return total(*reflection)
        case "total":
            weight = cast(LossTerm, loss.terms["gradient"]).weight_at(0, 0)
            return total(*background, *reflection) + weight * structure
    raise ParityError(f"no loss value '{name}' is known")


def _compare_loss_tensors(fixture: Fixture, case: Case, images: Mapping[str, Tensor]) -> list[Comparison]:
    """Compare the window and the gradient of the SSIM loss."""
    comparisons: list[Comparison] = []
    for spec in case.get("outputs") or []:
        name, recorded = str(spec["name"]), fixture.tensor(spec["npz"])
        if name.startswith("SSIM window"):
            taps = gaussian_window(recorded.dtype, recorded.device)
            found = torch.outer(taps, taps).expand_as(recorded)
        elif name.startswith("gradient of the ssim loss"):
            prediction = images["pred_t"].clone().requires_grad_()
            (found,) = torch.autograd.grad(ssim_loss(prediction, images["target_t"]), prediction)
        else:
            raise ParityError(f"no loss output '{name}' is known")
        comparisons.append(compare_tensor(name, found, recorded, 1e-4 * float(recorded.abs().max())))
    return comparisons


RUNNERS = (_Network(), _Losses())
