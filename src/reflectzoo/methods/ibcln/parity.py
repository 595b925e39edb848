"""Recordings of IBCLN's networks and losses, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from reflectzoo.config import build, config_dir
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.multiscale import MultiScalePerceptualLoss
from reflectzoo.losses.perceptual import perceptual_loss
from reflectzoo.losses.weighted_sum import WeightedSum
from reflectzoo.methods.ibcln.convert import GENERATORS, check_layout, remap
from reflectzoo.methods.ibcln.net import IBCLNNet, Turn
from reflectzoo.nets.recurrent import State
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
    compare_recorded,
    compare_scalar,
    load_recorded_weights,
    recorded_input,
    rule_vgg,
    watched,
)


class _Cascade:
    """One iteration from a given state, and the whole cascade."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.class_name == "Generator_drop" and fixture.comes_from("IBCLN")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = IBCLNNet(width=int(fixture.constructor.get("n_feats", 64))).eval()
        # The recorded state dicts have the authors' layout, so this also tests that their files load.
        hashes = fixture.data.get("weights") or {}
        recorded = {
            part: build_state_dict(fixture.data[f"state_dict_{part}"], hashes.get(f"{part}_sha256"))
            for part in GENERATORS
        }
        state = remap(recorded)
        check_layout(state, net, fixture.name)
        net.load_state_dict(state)
        for part in GENERATORS:
            check_parameter_count(net.get_submodule(part), fixture, part)

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            inputs = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            network = str(case["network"])
            with watched(net.G_T if network == "G_T" else net.G_R, case) as seen:
                found = _cascade(net, inputs["i"]) if network == "recurrence" else _one_turn(net, network, inputs)
            comparisons = compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT)
            inner, absent = compare_intermediates(fixture, case, seen, NETWORK_LIMIT)
            return CaseResult(
                comparisons + inner, f"{absent} intermediate tensors have no counterpart" if absent else ""
            )

        return run


def _one_turn(net: IBCLNNet, network: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = inputs["x"]
    height, width = x.shape[-2] // 4, x.shape[-1] // 4
    hidden, cell = (
        inputs[f"{name}_tile"].repeat(1, 1, -(-height // 4), -(-width // 4))[..., :height, :width] for name in "hc"
    )
    turn: Turn = net.get_submodule(network)(x, State(hidden, cell))
    return {
        "image": turn.image,
        "h": turn.state.hidden,
        "c": turn.state.cell,
        "half": turn.half,
        "quarter": turn.quarter,
    }


def _cascade(net: IBCLNNet, image: Tensor) -> dict[str, Tensor]:
    """Compute the outputs, and again step by step the coarse reflections, which the network does not return."""
    found: dict[str, Tensor] = {}
    lists = net(image)["aux"]
    for number, (t, r) in enumerate(zip(lists["transmission"], lists["reflection"], strict=True), start=1):
        found |= {f"iteration {number} t (unclamped)": t, f"iteration {number} r (unclamped)": r}
    t, r = image, torch.full_like(image, 0.1)
    turns: list[Turn | None] = [None, None]
    for number in range(1, net.iterations + 1):
        for index, (part, name) in enumerate(zip(GENERATORS, "tr", strict=True)):
            before = turns[index]
            turn: Turn = net.get_submodule(part)(torch.cat((image, t, r), 1), None if before is None else before.state)
            turns[index] = turn
            t, r = (turn.image, r) if name == "t" else (t, turn.image)
            found |= {
                f"iteration {number} {name}_{size}": each
                for size, each in (("half", turn.half), ("quarter", turn.quarter))
            }
    return found


class _Losses:
    """Every loss term and the totals of IBCLN's program, from ``loss=ibcln``."""

    def matches(self, fixture: Fixture) -> bool:
        has_values = any("values" in case for case in fixture.cases)
        return has_values and (fixture.comes_from("IBCLN", "IBCLN_model.py") or fixture.name == "losses_ibcln")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        losses = {dtype: _configured_loss(fixture, dtype) for dtype in _RELATIVE}

        def run(case: Case) -> CaseResult:
            images = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            comparisons: list[Comparison] = []
            for dtype, recorded in ((torch.float32, "values"), (torch.float64, "values_float64")):
                setting = _Setting(images, float(case["alpha"]), case["name"] == "natural", losses[dtype], dtype)
                found = setting.values()
                for name, value in (case.get(recorded) or {}).items():
                    if name not in found:
                        raise ParityError(f"no loss value '{name}' is known")
                    what = f"{name} in {str(dtype).removeprefix('torch.')}"
                    comparisons.append(compare_scalar(what, float(found[name].detach()), value, _RELATIVE[dtype]))
                if dtype == torch.float32:
                    comparisons += _compare_gradients(fixture, case, setting.last, found["total"])
            return CaseResult(comparisons)

        return run


_RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-6}


def _configured_loss(fixture: Fixture, dtype: torch.dtype) -> WeightedSum:
    """``loss=ibcln`` as configured, with the rule's weights for the discriminator and VGG."""
    loss = cast(WeightedSum, build(cast(DictConfig, OmegaConf.load(f"{config_dir()}/loss/ibcln.yaml"))))
    discriminator = cast(AdversarialLoss, loss.terms["adversarial"]).discriminator
    load_recorded_weights(discriminator, fixture, "D")
    check_parameter_count(discriminator, fixture)
    loss.to(dtype)
    # After loss.to(): the VGG is shared, and would otherwise change its precision.
    attach_vgg(loss, rule_vgg(dtype))
    return loss


class _Setting:
    """The images of one case in one precision, arranged as outputs of a network and as a batch.

    Args:
        images: by their names in the recording.
        alpha: alpha of the blend.
        natural: whether they represent a real pair, whose alpha and reflection are unknown.
        loss: as configured.
        dtype: dtype of images and loss.
    """

    def __init__(
        self, images: Mapping[str, Tensor], alpha: float, natural: bool, loss: WeightedSum, dtype: torch.dtype
    ) -> None:
        # For a real pair, a recording may lack images that no term uses.
        unused = {name: torch.zeros_like(images["t"]) for name in ("i", "pred_r1", "pred_r2", "pred_r3")}
        self.images = {name: image.to(dtype) for name, image in ({**unused, **images} if natural else images).items()}
        self.loss = loss
        self.last = self.images["pred_t3"].requires_grad_()
        lists = {
            layer: [self.images[f"pred_{layer[0]}{number}"] for number in (1, 2, 3)]
            for layer in ("transmission", "reflection")
        }
        self.outputs: Outputs = {
            "transmission": self.last,
            "reflection": lists["reflection"][-1],
            "aux": lists,
        }
        mixture = self.images["i"]
        names = [str(index) for index in range(len(mixture))]
        known = torch.ones(len(names), dtype=torch.bool)
        self.batch: Batch = {
            "mixture": mixture,
            "transmission": self.images["t"],
            "reflection": torch.zeros_like(mixture),  # not used by any term
            "has_transmission": known,
            "has_reflection": ~known if natural else known,
            "name": names,
            "dataset": names,
            "draws": {"alpha": torch.full((len(names),), float("nan") if natural else alpha, dtype=dtype)},
        }

    def values(self) -> dict[str, Tensor]:
        """All values by their names in the recordings, which include the weights."""
        pixel, residual, adversarial, reflection = (
            self._weighted(name) for name in ("pixel", "residual", "adversarial", "reflection")
        )
        perceptual = self._perceptual()
        term = cast(AdversarialLoss, self.loss.terms["adversarial"])
        transmission = pixel + residual + perceptual + adversarial
        return {
            "idt_T": pixel,
            "res": residual,
            "idt_R": reflection,
            "MP": perceptual,
            "G": adversarial,
            "T": transmission,
            "R": reflection,
            "total": transmission + reflection,
            "D": term.discriminator_loss(self.outputs, self.batch),
        }

    def _weighted(self, name: str) -> Tensor:
        term = cast(LossTerm, self.loss.terms[name])
        return term.weight_at(0, 0) * cast(Tensor, term(self.outputs, self.batch))

    def _perceptual(self) -> Tensor:
        """As the configured term, but with the recorded coarse ground truth instead of a downsampled one."""
        term = cast(MultiScalePerceptualLoss, self.loss.terms["perceptual"])
        pairs = {"full": (self.last, self.batch["transmission"])} | {
            size: (self.images[f"pred_t_{size}"], self.images[f"t_{size}"]) for size in ("half", "quarter")
        }
        values = [
            factor * perceptual_loss(term.vgg, *pairs[size], term.layers, normalise=term.normalise)
            for size, factor in term.scales.items()
        ]
        return term.weight_at(0, 0) * torch.stack(values).sum()


def _compare_gradients(fixture: Fixture, case: Case, image: Tensor, total: Tensor) -> list[Comparison]:
    comparisons = []
    for spec in case.get("outputs") or []:
        name = str(spec["name"])
        if not name.endswith("with respect to pred_t3"):
            raise ParityError(f"no loss output '{name}' is known")
        (found,) = torch.autograd.grad(total, image, retain_graph=True)
        limit = 1e-4 * float(fixture.tensor(spec["npz"]).abs().max())
        comparisons += compare_recorded(fixture, spec, name, found, limit)
    return comparisons


RUNNERS = (_Cascade(), _Losses())
