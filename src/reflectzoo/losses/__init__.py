"""Loss terms and their weighted sum."""

from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.exclusion import ExclusionLoss
from reflectzoo.losses.perceptual import PerceptualLoss
from reflectzoo.losses.pixel import PixelLoss
from reflectzoo.losses.reconstruction import ReconstructionLoss
from reflectzoo.losses.weighted_sum import WeightedSum

__all__ = [
    "AdversarialLoss",
    "ExclusionLoss",
    "LossTerm",
    "PerceptualLoss",
    "PixelLoss",
    "ReconstructionLoss",
    "WeightedSum",
]
