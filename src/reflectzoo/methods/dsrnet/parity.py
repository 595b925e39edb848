"""Recordings of DSRNet's network and losses, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from reflectzoo.config import build, config_dir
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.weighted_sum import WeightedSum
from reflectzoo.methods.dsrnet.convert import check_layout, remap
from reflectzoo.methods.dsrnet.net import DSRNet
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.parity import (
    NETWORK_LIMIT,
    Case,
    CaseResult,
    Comparison,
    Fixture,
    ParityError,
    build_state_dict,
    check_parameter_count,
    compare_intermediates,
    compare_outputs,
    compare_scalar,
    recorded_input,
    rule_vgg,
    watched,
)


def build_network(fixture: Fixture) -> DSRNet:
    """Make the network with the arguments in the recording's ``constructor``.

    Raises:
        ParityError: for an argument that is not supported here.
    """
    arguments = dict(fixture.constructor)
    if (arguments.pop("in_channels", 3), arguments.pop("out_channels", 3)) != (3, 3):
        raise ParityError("DSRNet has three colours in and out here")
    net = DSRNet(
        width=int(arguments.pop("width", 48)),
        encoder=list(arguments.pop("enc_blk_nums", [])),
        middle=int(arguments.pop("middle_blk_num", 1)),
        decoder=list(arguments.pop("dec_blk_nums", [])),
        residue=cast(tuple[int, int], tuple(arguments.pop("lrm_blk_nums", ()))),
        shared_b=bool(arguments.pop("shared_b", False)),
    )
    if arguments:
        raise ParityError(f"constructor of DSRNet: unknown arguments {', '.join(arguments)}")
    return net


class _Network:
    """DSRNet of any size."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.class_name == "DSRNet" and fixture.comes_from("DSRNet")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = build_network(fixture).eval()
        # The recorded state dict has the authors' layout, so this also tests that their files load.
        hashes = fixture.data.get("weights") or {}
        state = remap(build_state_dict(fixture.data["state_dict"], hashes.get("sha256")))
        check_layout(state, net, fixture.name)
        net.load_state_dict(state)
        check_parameter_count(net, fixture)
        attach_vgg(net, rule_vgg())

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            (spec,) = case["inputs"]
            image = recorded_input(fixture, spec)
            with watched(net, case) as seen:
                outputs = net(image)
            found = {
                "t": outputs["transmission"],
                "r": outputs["reflection"],
                "rr": outputs["aux"]["residue"],
            }
            # Here both streams are stored in one tensor.
            inside = {name: each.chunk(2) if len(each) == 2 * len(image) else each for name, each in seen.items()}
            comparisons = compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT)
            inner, absent = compare_intermediates(fixture, case, inside, NETWORK_LIMIT)
            return CaseResult(
                comparisons + inner, f"{absent} intermediate tensors have no counterpart" if absent else ""
            )

        return run


_RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-6}


class _Losses:
    """Every loss term and the total of DSRNet's program, from ``loss=dsrnet``."""

    def matches(self, fixture: Fixture) -> bool:
        has_values = any("values" in case for case in fixture.cases)
        return has_values and fixture.comes_from("DSRNet", "models/losses.py")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        loss = cast(WeightedSum, build(cast(DictConfig, OmegaConf.load(f"{config_dir()}/loss/dsrnet.yaml"))))

        def run(case: Case) -> CaseResult:
            images = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            comparisons: list[Comparison] = []
            for dtype, recorded in ((torch.float32, "values"), (torch.float64, "values_float64")):
                attach_vgg(loss, rule_vgg(dtype))
                found = _values(loss, {name: image.to(dtype) for name, image in images.items()})
                for name, value in (case.get(recorded) or {}).items():
                    if name not in found:
                        raise ParityError(f"no loss value '{name}' is known")
                    what = f"{name} in {str(dtype).removeprefix('torch.')}"
                    comparisons.append(compare_scalar(what, float(found[name]), value, _RELATIVE[dtype]))
            return CaseResult(comparisons)

        return run


@torch.no_grad()
def _values(loss: WeightedSum, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The terms and the total, by their names in the recordings."""
    known = torch.ones(len(images["input"]), dtype=torch.bool)
    names = [str(index) for index in range(len(known))]
    outputs: Outputs = {
        "transmission": images["pred_t"],
        "reflection": images["pred_r"],
        "aux": {"residue": images["pred_rr"]},
    }
    batch: Batch = {
        "mixture": images["input"],
        "transmission": images["target_t"],
        "reflection": images["target_r"],
        "has_transmission": known,
        "has_reflection": known,
        "name": names,
        "dataset": names,
    }
    total, parts = loss(outputs, batch)
    called = {
        "transmission_pixel": "t_pixel",
        "reflection_pixel": "r_pixel",
        "perceptual": "vgg_t",
        "exclusion": "exclusion",
        "reconstruction": "recons_unweighted",
    }
    return {theirs: parts[ours] for ours, theirs in called.items()} | {"total_lambda_vgg_0.01_lambda_rec_0.2": total}


RUNNERS = (_Network(), _Losses())
