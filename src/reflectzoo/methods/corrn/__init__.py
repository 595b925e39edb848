"""CoRRN: "CoRRN: Cooperative Reflection Removal Network".

Wan, Shi, Li, Duan, Tan and Kot, TPAMI 2019. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.methods.corrn.net import CoRRNNet

__all__ = ["CoRRNNet"]
