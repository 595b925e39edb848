"""Location-aware SIRR: joint gates, no empty memory, LSTM in bands, channels-last; compared with the plain form."""

from __future__ import annotations

from reflectzoo.bench.networks import network_rows
from reflectzoo.bench.registry import Options, SpeedComparison
from reflectzoo.methods.location_aware.net import LocationAwareNet

TITLE = "Location-aware SIRR, three iterations (seeded weights; speed does not depend on them)"

_SIZES = ((400, 544), (768, 1024), (128, 128))
_GOALS = {"inference_fp32": 1.3, "training_fp32": 1.0, "inference_bf16": 3.0, "inference_memory": 1.3}


def comparisons(options: Options) -> list[SpeedComparison]:
    """Inference: time in fp32 and bf16, and memory; training step: time."""
    return network_rows(options, LocationAwareNet, _SIZES, _GOALS)
