"""Recordings of YTMT's networks, hypercolumn and discriminators, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from reflectzoo.methods.ytmt.blocks import Pattern
from reflectzoo.methods.ytmt.net import YTMTPlain, YTMTUNet
from reflectzoo.methods.ytmt.released import YTMTReleasedUNet
from reflectzoo.methods.ytmt.two_stage import TwoStage
from reflectzoo.nets.discriminators import DiscriminatorVGG, PatchDiscriminator
from reflectzoo.nets.hypercolumn import HYPERCOLUMN_CHANNELS, VGG_LAYERS, Hypercolumn, dense_hypercolumn
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import load_vgg19
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
    compare_stats,
    compare_tensor,
    load_recorded_weights,
    recorded_input,
    rule_vgg,
    watched,
)

_CLASSES = ("YTMT_US", "YTMT_PS", "YTMTUNet")
_FACTORIES: Mapping[str, tuple[str, str]] = {
    "ytmt_ucs": ("YTMT_US", "C"),
    "ytmt_uas": ("YTMT_US", "A"),
    "ytmt_ups": ("YTMT_US", "P"),
    "ytmt_ucs_old": ("YTMTUNet", "C"),
    "ytmt_pcs": ("YTMT_PS", "C"),
    "ytmt_pas": ("YTMT_PS", "A"),
}
"""Factory function of the authors' program -> class and exchange pattern."""


def build_network(fixture: Fixture) -> nn.Module:
    """Make one stage from the recording's ``class``, ``factory`` and ``constructor``.

    Raises:
        ParityError: for a network or an argument that is not supported here.
    """
    by_factory, pattern = _FACTORIES.get(str(fixture.data.get("factory")), (None, "C"))
    class_name = fixture.class_name if fixture.class_name in _CLASSES else by_factory
    arguments = dict(fixture.constructor)
    pattern = str(arguments.pop("pattern", pattern))
    sigmoid = bool(arguments.pop("act", True))
    net: nn.Module
    if class_name == "YTMT_PS":
        net = YTMTPlain(
            cast(Pattern, pattern),
            in_channels=int(arguments.pop("in_channels", 3)),
            out_channels=int(arguments.pop("out_channels", 3)),
            width=int(arguments.pop("inter_channels", 64)),
            layers=int(arguments.pop("num_of_layers", 10)),
            sigmoid=sigmoid,
        )
    elif class_name in ("YTMT_US", "YTMTUNet"):
        if not sigmoid:
            raise ParityError(f"{class_name} without a final sigmoid (act) does not exist here")
        channels = int(arguments.pop("n_channels", 3))
        # 1475 channels are a hypercolumn, which the network here computes from the image.
        sizes: dict[str, Any] = {"in_channels": channels, "hypercolumn": channels == HYPERCOLUMN_CHANNELS}
        sizes["out_channels"] = int(arguments.pop("n_classes", 3))
        net = YTMTUNet(cast(Pattern, pattern), **sizes) if class_name == "YTMT_US" else YTMTReleasedUNet(**sizes)
    else:
        raise ParityError(f"no network of class {fixture.class_name}, factory {fixture.data.get('factory')}")
    if arguments:
        raise ParityError(f"constructor of {class_name}: unknown arguments {', '.join(arguments)}")
    return net


def _images(fixture: Fixture, case: Case, channels: int | None) -> list[Tensor]:
    """The inputs, in order; ``channels`` is None for a network that computes the hypercolumn itself."""
    images = []
    for spec in case["inputs"]:
        image = recorded_input(fixture, spec).float()
        step = str(spec.get("preprocess", ""))
        if step and not step.startswith("hypercolumn"):
            raise ParityError(f"input '{spec['name']}' wants an unknown preprocessing step: {step}")
        if step and channels is not None:
            raise ParityError(f"input '{spec['name']}' wants a hypercolumn, but the network takes {channels} channels")
        images.append(image)
    return images


class _OneStage:
    """YTMT_US, YTMT_PS and YTMTUNet."""

    def matches(self, fixture: Fixture) -> bool:
        if fixture.class_name is not None:
            return fixture.class_name in _CLASSES
        return fixture.data.get("factory") in _FACTORIES or fixture.name.removesuffix("_rgb") in _FACTORIES

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = build_network(fixture).eval()
        load_recorded_weights(net, fixture)
        check_parameter_count(net, fixture)
        if needs_vgg(net):
            attach_vgg(net, rule_vgg())
        channels = None if needs_vgg(net) else next(net.parameters()).shape[1]

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            with watched(net, case) as seen:
                outputs = net(*_images(fixture, case, channels))
            tolerance = NETWORK_LIMIT
            found = {"t": outputs["transmission"], "r": outputs["reflection"]}
            comparisons = compare_outputs(fixture, case["outputs"], found, tolerance)
            inner, absent = compare_intermediates(fixture, case, seen, tolerance)
            return CaseResult(
                comparisons + inner, f"{absent} intermediate tensors have no counterpart" if absent else ""
            )

        return run


class _TwoStages:
    """Two successive stages, named after the entries of the authors' files."""

    def matches(self, fixture: Fixture) -> bool:
        if fixture.class_name is not None:
            return fixture.class_name == "TwoStageYTMTNetModel"
        return "state_dict_icnn2" in fixture.data

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = TwoStage(build_network(fixture), build_network(fixture), active_stage=2).eval()
        load_recorded_weights(net.icnn, fixture, "icnn")
        load_recorded_weights(net.icnn2, fixture, "icnn2")
        check_parameter_count(net, fixture)
        if needs_vgg(net):
            attach_vgg(net, rule_vgg())
        channels = None if needs_vgg(net) else next(net.parameters()).shape[1]

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            outputs = net(*_images(fixture, case, channels))
            first = outputs["stages"][0]
            found = {
                "t1": first["transmission"],
                "r1": first["reflection"],
                "t2": outputs["transmission"],
                "r2": outputs["reflection"],
            }
            return CaseResult(compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT))

        return run


class _Hypercolumns:
    """The VGG-19 features and the hypercolumn of 1475 channels."""

    def matches(self, fixture: Fixture) -> bool:
        if fixture.class_name is not None:
            return False
        return "feature_indices_one_based" in fixture.data or fixture.name == "hypercolumn"

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        vgg = load_vgg19("random")
        load_recorded_weights(vgg, fixture)
        check_parameter_count(vgg, fixture)
        hypercolumn = Hypercolumn()
        attach_vgg(hypercolumn, vgg)

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            (image,) = _images(fixture, case, None)
            tolerance = NETWORK_LIMIT
            column = dense_hypercolumn(hypercolumn(image))
            comparisons: list[Comparison] = []
            for spec in case["outputs"]:
                if isinstance(spec["npz"], str):
                    comparisons += compare_outputs(fixture, [spec], {"hypercolumn": column}, tolerance)
                    continue
                mean, deviation = column.mean(dim=(2, 3)), column.std(dim=(2, 3), correction=0)
                for name, found in zip(spec["npz"], (mean, deviation), strict=True):
                    comparisons.append(compare_tensor(name, found, fixture.tensor(name), tolerance))
            return CaseResult(comparisons + _compare_features(case, vgg(image, VGG_LAYERS), tolerance))

        return run


def _compare_features(case: Case, features: list[Tensor], tolerance: float) -> list[Comparison]:
    shapes = [list(feature.shape) for feature in features]
    if case.get("feature_shapes", shapes) != shapes:
        raise ParityError(f"the VGG features are {shapes}, but {case['feature_shapes']} are recorded")
    recorded = zip(VGG_LAYERS, features, case.get("feature_stats") or [], strict=False)
    return [one for name, feature, stats in recorded for one in compare_stats(name, feature, stats, tolerance)]


class _Discriminators:
    """disc_vgg and the PatchGAN."""

    def matches(self, fixture: Fixture) -> bool:
        # IBCLN's program has a different class with the second name.
        return fixture.class_name == "Discriminator_VGG" or (
            fixture.class_name == "NLayerDiscriminator" and fixture.comes_from("YTMT-Strategy")
        )

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        arguments = dict(fixture.constructor)
        if arguments.pop("use_sigmoid", False) or arguments.pop("getIntermFeat", False):
            raise ParityError("discriminators return nothing but logits here")
        net: nn.Module
        if fixture.class_name == "Discriminator_VGG":
            net = DiscriminatorVGG(int(arguments.pop("in_channels", 3)))
        else:
            norm = str(arguments.pop("norm_layer", "InstanceNorm2d"))
            if not norm.startswith("InstanceNorm2d"):
                raise ParityError(f"the PatchGAN has InstanceNorm2d here, not {norm}")
            net = PatchDiscriminator(
                int(arguments.pop("input_nc", 3)), int(arguments.pop("ndf", 64)), int(arguments.pop("n_layers", 3))
            )
        if arguments:
            raise ParityError(f"constructor of {fixture.class_name}: unknown arguments {', '.join(arguments)}")
        net.eval()
        load_recorded_weights(net, fixture)
        check_parameter_count(net, fixture)

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            (image,) = _images(fixture, case, next(net.parameters()).shape[1])
            return CaseResult(compare_outputs(fixture, case["outputs"], {"logit": net(image)}, NETWORK_LIMIT))

        return run


RUNNERS = (_OneStage(), _TwoStages(), _Hypercolumns(), _Discriminators())
