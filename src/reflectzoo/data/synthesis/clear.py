"""Pictures without any reflection."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from reflectzoo.data.synthesis.base import Params, Synthesis


class ClearSynthesis(Synthesis):
    """The mixture is the transmission and the reflection is black: a method should return the input unchanged.

    Intended as one of the models of :class:`~reflectzoo.data.synthesis.mixed.MixedSynthesis`.
    """

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Return ``alpha``, the weight of the transmission, which is 1."""
        return {"alpha": 1.0}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`."""
        return transmission.clone(), transmission, torch.zeros_like(reflection)
