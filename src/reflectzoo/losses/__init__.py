"""Loss terms, one file each, and their weighted sum."""

from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.composite import CompositeLoss
from reflectzoo.losses.exclusion import ExclusionLoss
from reflectzoo.losses.perceptual import PerceptualLoss
from reflectzoo.losses.pixel import PixelLoss
from reflectzoo.losses.reconstruction import ReconstructionLoss

__all__ = [
    "AdversarialLoss",
    "CompositeLoss",
    "ExclusionLoss",
    "LossTerm",
    "PerceptualLoss",
    "PixelLoss",
    "ReconstructionLoss",
]
