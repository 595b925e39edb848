"""A synthesis model that chooses among several others at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from reflectzoo.core.annotations import Weight
from reflectzoo.data.synthesis.base import SHIFT, Params, Synthesis
from reflectzoo.errors import UserError

CHOICE = "model"


class MixedSynthesis(Synthesis):
    """Blends every sample by one of several models, chosen at random.

    The draws include ``model``, the index of the chosen one in ``models``, and the draws of all models by name. Draws
    of models other than the chosen one are NaN: a loss that uses ``alpha`` must check for that.

    Args:
        models: the models by name.
        weights: relative frequencies by the same names; null for equal ones. A weight of 0 disables a model.

    Raises:
        UserError: if there is no model, a weight is missing, unknown or negative, all are 0, a model is itself a
            mixture, or two models use the same name for draws of different lengths.
    """

    def __init__(self, models: Mapping[str, Synthesis], weights: Mapping[str, Weight] | None = None) -> None:
        super().__init__()
        if not models:
            raise UserError("synthesis.models must name at least one synthesis model.")
        weights = dict.fromkeys(models, 1.0) if weights is None else weights
        if set(weights) != set(models):
            raise UserError(
                f"synthesis.weights must give one weight for each of {', '.join(models)}, got {', '.join(weights)}."
            )
        if sum(weights.values()) <= 0:
            raise UserError(f"synthesis.weights must not be all 0, got {dict(weights)}.")
        self.names = list(models)
        self.models = nn.ModuleList(models.values())
        self._edges = np.cumsum([float(weights[name]) / sum(weights.values()) for name in models])
        self._blank: Params = {}
        for name, model in models.items():
            for draw, value in model.sample_params(np.random.default_rng(0)).items():
                if draw == CHOICE:
                    raise UserError(f"synthesis.models: '{name}' is a mixture itself; list its models instead.")
                blank = (float("nan"),) * len(value) if isinstance(value, tuple) else float("nan")
                if len(np.atleast_1d(self._blank.setdefault(draw, blank))) != len(np.atleast_1d(blank)):
                    raise UserError(f"synthesis.models: '{name}' draws '{draw}' in another form than another model.")

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw the index of the model, and make its draws."""
        choice = min(int(np.searchsorted(self._edges, rng.random(), side="right")), len(self.names) - 1)
        return {CHOICE: float(choice), **self._blank, **self._model(choice).sample_params(rng)}

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Results of the models; NaN for samples whose model measures nothing."""
        shift = transmission.new_full((len(transmission), 3), float("nan"))
        for model, rows in self._groups(draws):
            measured = model.measure(transmission[rows], reflection[rows], _of(draws, rows))
            if SHIFT in measured:
                shift[rows] = measured[SHIFT]
        return {SHIFT: shift}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`. All samples of one model are blended together.

        The choices are read back from an accelerator once, which synchronises with it.
        """
        groups = self._groups(draws)
        if len(groups) == 1:
            return groups[0][0].blend(transmission, reflection, draws)
        layers = tuple(torch.empty_like(transmission) for _ in range(3))
        for model, rows in groups:
            blended = model.blend(transmission[rows], reflection[rows], _of(draws, rows))
            for layer, part in zip(layers, blended, strict=True):
                layer[rows] = part
        return layers[0], layers[1], layers[2]

    def _model(self, choice: int) -> Synthesis:
        return cast(Synthesis, self.models[choice])

    def _groups(self, draws: Mapping[str, Tensor]) -> list[tuple[Synthesis, Tensor]]:
        """Each chosen model with the indices of its samples."""
        choices = draws[CHOICE].round().long()
        chosen = choices.tolist()
        if not all(0 <= choice < len(self.names) for choice in chosen):
            raise ValueError(f"the draws choose model {max(chosen)}, but there are {len(self.names)}")
        by_model = {
            choice: [row for row, other in enumerate(chosen) if other == choice] for choice in sorted(set(chosen))
        }
        return [(self._model(choice), torch.tensor(rows, device=choices.device)) for choice, rows in by_model.items()]


def _of(draws: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in draws.items()}
