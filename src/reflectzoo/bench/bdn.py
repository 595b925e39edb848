"""BDN: channels-last and in-place ReLUs; compared with the plain form."""

from __future__ import annotations

from reflectzoo.bench.networks import network_rows
from reflectzoo.bench.registry import Options, SpeedComparison
from reflectzoo.methods.bdn.net import BDNNet

TITLE = "BDN (seeded weights; speed does not depend on them)"

_SIZES = ((400, 544), (768, 1024), (128, 128))
_GOALS = {"inference_fp32": 1.0, "training_fp32": 1.0, "inference_bf16": 3.0, "inference_memory": 1.0}


def comparisons(options: Options) -> list[SpeedComparison]:
    """Inference: time in fp32 and bf16, and memory; training step: time."""
    return network_rows(options, BDNNet, _SIZES, _GOALS, least=128)
