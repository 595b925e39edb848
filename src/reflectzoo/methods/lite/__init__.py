"""Lite: the zoo's own small network, the one whose weights ship. See README.md in this folder."""

from __future__ import annotations

from reflectzoo.methods.lite.net import LiteNet

__all__ = ["LiteNet"]
