"""Location-aware SIRR: "Location-aware Single Image Reflection Removal".

Dong, Xu, Yang, Bao, Xu and Lau, ICCV 2021. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.methods.location_aware.net import LocationAwareNet

__all__ = ["LocationAwareNet"]
