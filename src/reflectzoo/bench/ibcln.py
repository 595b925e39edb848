"""IBCLN: joint gates, empty memory skipped, LSTMs in bands, Winograd, channels-last; compared with the plain form."""

from __future__ import annotations

from reflectzoo.bench.networks import network_rows
from reflectzoo.bench.registry import Options, SpeedComparison
from reflectzoo.methods.ibcln.net import IBCLNNet

TITLE = "IBCLN, three iterations (seeded weights; speed does not depend on them)"

_SIZES = ((400, 540), (768, 1024), (128, 128))
_GOALS = {"inference_fp32": 1.3, "training_fp32": 1.0, "inference_bf16": 3.0, "inference_memory": 1.0}


def comparisons(options: Options) -> list[SpeedComparison]:
    """Inference: time in fp32 and bf16, and memory; training step: time."""
    return network_rows(options, IBCLNNet, _SIZES, _GOALS)
