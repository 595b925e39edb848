"""YTMT: "Trash or Treasure? An Interactive Dual-Stream Strategy for Single Image Reflection Separation".

Hu and Guo, NeurIPS 2021. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.methods.ytmt.net import TwoStage, YTMTPlain, YTMTReleasedUNet, YTMTUNet

__all__ = ["TwoStage", "YTMTPlain", "YTMTReleasedUNet", "YTMTUNet"]
