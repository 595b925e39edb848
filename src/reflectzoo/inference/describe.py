"""What a method costs: parameters, and arithmetic for a megapixel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reflectzoo.inference.load import untrained_model
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import VGG19
from reflectzoo.weights.records import WeightRecord, records


@dataclass(frozen=True)
class MethodInfo:
    """One method.

    Attributes:
        name: of the method.
        parameters: of its network, without a shared VGG; None if it was not counted.
        gflop_per_megapixel: 10^9 multiplications and additions for 10^6 pixels.
        weights: those the registry knows.
    """

    name: str
    parameters: int | None
    gflop_per_megapixel: float | None
    weights: tuple[WeightRecord, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "weights": [{**asdict(each), "folder": str(each.folder)} for each in self.weights]}


def describe(name: str, counted: bool = True, side: int = 64) -> MethodInfo:
    """What there is to know about a method.

    Args:
        name: one of :func:`reflectzoo.list_models`.
        counted: build it and count; otherwise only its weights.
        side: of the picture that is counted on, a multiple of 32.
    """
    weights = tuple(record for record in records() if record.model == name)
    if not counted:
        return MethodInfo(name, None, None, weights)
    net = untrained_model(name).enter_last_phase().net
    if needs_vgg(net):
        attach_vgg(net, _vgg())
    parameters = sum(parameter.numel() for parameter in net.parameters())
    # With gradients: a network's own ways of saving arithmetic, which not every machine has, are left aside.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, side, side))
    return MethodInfo(name, parameters, counter.get_total_flops() / side**2 / 1e3, weights)


@lru_cache(maxsize=1)
def _vgg() -> VGG19:
    return VGG19()
