"""ERRNet: VGG maps and means projected at their own size, Winograd, channels-last; compared with the plain form."""

from __future__ import annotations

from reflectzoo.bench.networks import network_rows
from reflectzoo.bench.registry import Options, SpeedComparison
from reflectzoo.methods.errnet.net import ERRNet
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import load_vgg19

TITLE = "ERRNet, hypercolumn of VGG-19 (seeded weights; speed does not depend on them)"

_SIZES = ((256, 352), (768, 1024), (128, 128))
_GOALS = {"inference_fp32": 1.5, "training_fp32": 1.0, "inference_bf16": 3.0, "inference_memory": 2.0}


def comparisons(options: Options) -> list[SpeedComparison]:
    """Inference: time in fp32 and bf16, and memory; training step: time."""
    return network_rows(options, _network, _SIZES, _GOALS, least=32)


def _network() -> ERRNet:
    net = ERRNet()
    attach_vgg(net, load_vgg19("random"))
    return net
