"""One of every synthesis model, and a hash of what they make; imports little, since a test does so in a new process."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from reflectzoo.data.synthesis import (
    JPEG,
    BDNSynthesis,
    CameraNoise,
    CEILNetSynthesis,
    ClearSynthesis,
    ColdSynthesis,
    ColourCast,
    CoRRNSynthesis,
    DepthBlur,
    DSRNetSynthesis,
    EffectSynthesis,
    Ghosting,
    GlassSynthesis,
    IBCLNSynthesis,
    LocationAwareSynthesis,
    MixedSynthesis,
    Synthesis,
    ZhangSynthesis,
)
from reflectzoo.data.synthesis.effects import Effect


def plain_models() -> dict[str, Synthesis]:
    effects: dict[str, Effect] = {
        "ghosting": Ghosting(),
        "depth_blur": DepthBlur(),
        "cast": ColourCast(),
        "noise": CameraNoise(),
        "jpeg": JPEG(),
    }
    return {
        "ceilnet": CEILNetSynthesis(),
        "ceilnet_fan": CEILNetSynthesis(taps=None, border="reflect"),
        "zhang": ZhangSynthesis(),
        "ibcln": IBCLNSynthesis(),
        "location_aware": LocationAwareSynthesis(),
        "equation_6": LocationAwareSynthesis(sigma=None, attenuation=None, vignette=False),
        "corrn": CoRRNSynthesis(),
        "corrn_program": CoRRNSynthesis(pairs=[(0.8, 0.7), (0.9, 0.8)], sigma=0.4, weighted_transmission=False),
        "dsrnet": DSRNetSynthesis(),
        "dsrnet_mixed": DSRNetSynthesis(targets="mixed"),
        "cold": ColdSynthesis(),
        "bdn": BDNSynthesis(),
        "clear": ClearSynthesis(),
        "glass": GlassSynthesis(),
        "effects": EffectSynthesis(CEILNetSynthesis(), effects),
    }


def all_models() -> dict[str, Synthesis]:
    return {**plain_models(), "mixed": MixedSynthesis(plain_models())}


def digest() -> str:
    """A hash of what every model makes of the same pictures and seeds."""
    whole = hashlib.md5()
    generator = np.random.default_rng(5)
    transmission, reflection = torch.from_numpy(generator.random((2, 3, 3, 21, 18), dtype=np.float32))
    for model in all_models().values():
        for layer in model(transmission, reflection, [4, 5, 6])[:3]:
            whole.update(layer.contiguous().numpy().tobytes())
    return whole.hexdigest()
