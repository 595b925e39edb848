"""Recordings of ERRNet's network and of its losses for unaligned pairs, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

import torch
from omegaconf import OmegaConf
from torch import Tensor

from reflectzoo.config import build, config_dir
from reflectzoo.losses.contextual import contextual_loss
from reflectzoo.losses.perceptual import imagenet_normalised
from reflectzoo.losses.unaligned import UnalignedLoss
from reflectzoo.methods.errnet.net import ERRNet
from reflectzoo.nets.hypercolumn import HYPERCOLUMN_CHANNELS
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import VGG19
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
    load_recorded_weights,
    recorded_input,
    rule_vgg,
    watched,
)


def build_network(fixture: Fixture) -> ERRNet:
    """Make the network with the arguments in the recording's ``constructor``.

    Raises:
        ParityError: for an argument that is not supported here.
    """
    arguments = dict(fixture.constructor)
    channels = int(arguments.pop("in_channels", 3))
    if channels not in (3, HYPERCOLUMN_CHANNELS):
        raise ParityError(f"DRNet has 3 or {HYPERCOLUMN_CHANNELS} input channels here, not {channels}")
    reduction = arguments.pop("se_reduction", None)
    net = ERRNet(
        hypercolumn=channels == HYPERCOLUMN_CHANNELS,
        width=int(arguments.pop("n_feats", 256)),
        blocks=int(arguments.pop("n_resblocks", 13)),
        attention=reduction is not None,
        pyramid=bool(arguments.pop("pyramid", False)),
        residual_scale=float(arguments.pop("res_scale", 1)),
    )
    others = {key: arguments.pop(key, fixed) for key, fixed in _FIXED.items()} | {"se_reduction": reduction or 8}
    wrong = [key for key, value in others.items() if value != {**_FIXED, "se_reduction": 8}[key]]
    if wrong or arguments:
        raise ParityError(f"constructor of DRNet: {', '.join([*wrong, *arguments])} cannot be had here")
    return net


_FIXED: Mapping[str, object] = {"out_channels": 3, "norm": None, "bottom_kernel_size": 1}


class _Network:
    """DRNet over the hypercolumn and over RGB."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.class_name == "DRNet" and fixture.comes_from("ERRNet")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = build_network(fixture).eval()
        load_recorded_weights(net, fixture)
        check_parameter_count(net, fixture)
        if net.hypercolumn is not None:
            attach_vgg(net, rule_vgg())

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            (spec,) = case["inputs"]
            if str(spec.get("preprocess", "")).startswith("hypercolumn") != (net.hypercolumn is not None):
                raise ParityError(f"input '{spec['name']}' wants another preprocessing step than the network has")
            with watched(net, case) as seen:
                found = {"t": net.restore(recorded_input(fixture, spec).float())}
            comparisons = compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT)
            inner, absent = compare_intermediates(fixture, case, seen, NETWORK_LIMIT)
            return CaseResult(
                comparisons + inner, f"{absent} intermediate tensors have no counterpart" if absent else ""
            )

        return run


_RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-6}
_LAYERS = {8: "conv2_2", 13: "conv3_2", 22: "conv4_2", 31: "conv5_2"}
"""Position in VGG-19's list of layers, counted from one as in the recordings -> name of the layer."""


class _UnalignedLosses:
    """The loss of ``loss=errnet`` for misaligned pairs, in each ``loss.terms.unaligned.form``."""

    def matches(self, fixture: Fixture) -> bool:
        has_values = any("values" in case for case in fixture.cases)
        return has_values and fixture.comes_from("ERRNet", "losses.py", "CX_distance.py")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        def run(case: Case) -> CaseResult:
            images = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            comparisons: list[Comparison] = []
            for dtype, recorded in ((torch.float32, "values"), (torch.float64, "values_float64")):
                pair = images["pred"].to(dtype), images["target"].to(dtype)
                for name, value in (case.get(recorded) or {}).items():
                    found = float(_value(name, *pair, rule_vgg(dtype)))
                    what = f"{name} in {str(dtype).removeprefix('torch.')}"
                    comparisons.append(compare_scalar(what, found, value, _RELATIVE[dtype]))
            return CaseResult(comparisons)

        return run


@torch.no_grad()
def _value(name: str, prediction: Tensor, target: Tensor, vgg: VGG19) -> Tensor:
    """Compute one value by its name in the recordings.

    Raises:
        ParityError: for an unknown name.
    """
    single = re.fullmatch(r"ctx_single_layer_(\d+)_not_rectified", name)
    if single and int(single[1]) in _LAYERS:
        layer = [_LAYERS[int(single[1])]]
        found, wanted = (vgg(imagenet_normalised(image), layer)[0] for image in (prediction, target))
        return contextual_loss(found, wanted)
    forms = {"vgg": "features", "ctx": "contextual", "ctx_vgg": "both"}
    if name not in forms:
        raise ParityError(f"no loss value '{name}' is known")
    config = OmegaConf.load(f"{config_dir()}/loss/errnet.yaml").terms.unaligned
    config.form = forms[name]
    term = cast(UnalignedLoss, build(config))
    attach_vgg(term, vgg)
    known = torch.zeros(len(target), dtype=torch.bool)
    value: Tensor = term(
        {"transmission": prediction},
        {
            "mixture": target,
            "transmission": torch.zeros_like(target),
            "reflection": torch.zeros_like(target),
            "has_transmission": known,
            "has_reflection": known,
            "unaligned_transmission": target,
            "has_unaligned": ~known,
            "name": ["recorded"] * len(known),
            "dataset": ["recorded"] * len(known),
        },
    )
    return term.weight_at(0, 0) * value


RUNNERS = (_Network(), _UnalignedLosses())
