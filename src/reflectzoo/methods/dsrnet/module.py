"""Training of DSRNet."""

from __future__ import annotations

from typing import Any, Literal, cast

from reflectzoo.methods.dsrnet.net import DSRNet, start_as_copy
from reflectzoo.training.module import ReflectionModule

_Start = Literal["default", "copy"]
"""Initialisation of a new network."""


class DSRNetModule(ReflectionModule):
    """Single image reflection separation via component synergy (Hu and Guo, ICCV 2023), Sec. 4.

    Args:
        init: ``default``: PyTorch's initialisation with blocks that start as the identity, as in the program; ``copy``:
            both layers start as the mixture, for short training runs (see
            :func:`~reflectzoo.methods.dsrnet.net.start_as_copy`).
        **kwargs: as for :class:`~reflectzoo.training.module.ReflectionModule`.

    Raises:
        UserError: for an unknown ``init``.
    """

    def __init__(self, *args: Any, init: _Start = "default", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("init")
        if init == "copy":
            start_as_copy(cast(DSRNet, self.net))
