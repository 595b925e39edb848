"""Synthesis of mixtures from two photographs: one blending model per file."""

from reflectzoo.data.synthesis.base import Blend, Synthesis
from reflectzoo.data.synthesis.bdn import BDNSynthesis
from reflectzoo.data.synthesis.ceilnet import CEILNetSynthesis
from reflectzoo.data.synthesis.clear import ClearSynthesis
from reflectzoo.data.synthesis.cold import ColdSynthesis
from reflectzoo.data.synthesis.corrn import CoRRNSynthesis
from reflectzoo.data.synthesis.dsrnet import DSRNetSynthesis
from reflectzoo.data.synthesis.effects import (
    JPEG,
    CameraNoise,
    ColourCast,
    DepthBlur,
    Effect,
    EffectSynthesis,
    Ghosting,
)
from reflectzoo.data.synthesis.glass import GlassSynthesis
from reflectzoo.data.synthesis.ibcln import IBCLNSynthesis
from reflectzoo.data.synthesis.location_aware import LocationAwareSynthesis
from reflectzoo.data.synthesis.mixed import MixedSynthesis
from reflectzoo.data.synthesis.zhang import ZhangSynthesis

__all__ = [
    "JPEG",
    "BDNSynthesis",
    "Blend",
    "CEILNetSynthesis",
    "CameraNoise",
    "ClearSynthesis",
    "CoRRNSynthesis",
    "ColdSynthesis",
    "ColourCast",
    "DSRNetSynthesis",
    "DepthBlur",
    "Effect",
    "EffectSynthesis",
    "Ghosting",
    "GlassSynthesis",
    "IBCLNSynthesis",
    "LocationAwareSynthesis",
    "MixedSynthesis",
    "Synthesis",
    "ZhangSynthesis",
]
