"""Ways of making a mixture from two photographs: one blending model per file."""

from reflectzoo.data.synthesis.base import Blend, Synthesis
from reflectzoo.data.synthesis.ceilnet import CEILNetSynthesis

__all__ = ["Blend", "CEILNetSynthesis", "Synthesis"]
