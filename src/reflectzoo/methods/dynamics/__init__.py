"""Reflection Dynamics: "Distilling Reflection Dynamics for Single-Image Reflection Removal".

Zheng, Qiao, Cao, Guo, Zhang and Lau, ICCV 2021. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.methods.dynamics.net import DynamicsStudent, DynamicsTeacher

__all__ = ["DynamicsStudent", "DynamicsTeacher"]
