"""Reading the authors' checkpoints, and telling in one sentence when a file holds another network.

The file of the released program (``model.pth``) is a plain state dict. Its names are ours already, but for the four
gates of the LSTM, which are four convolutions there and one here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.recurrent import join_gates
from reflectzoo.weights.read import find_weights, misfits

_FIRST = "det_conv0.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the network in a checkpoint and name its weights as this zoo does.

    Takes the authors' state dict, also wrapped in ``state_dict``, one of ours (returned unchanged) and the checkpoints
    that training writes here (the network under ``net.``). A ``module.`` prefix, left by parallel training, is dropped.
    Nothing is modified; tensors are not copied, except that the gates are joined.

    Args:
        checkpoint: what ``torch.load`` returned.

    Returns:
        A state dict for :class:`~reflectzoo.methods.location_aware.net.LocationAwareNet`.

    Raises:
        UserError: if there is no such network in it, or some but not all of its gates.

    Example:
        >>> import torch
        >>> state = {"det_conv0.0.weight": torch.zeros(32, 6, 3, 3)}
        >>> state |= {f"conv_{gate}.0.weight": torch.zeros(64, 128, 3, 3) for gate in "ifgo"}
        >>> {key: tuple(value.shape) for key, value in remap(state).items()}
        {'det_conv0.0.weight': (32, 6, 3, 3), 'lstm.gates.weight': (256, 128, 3, 3)}
    """
    give = "the authors' model.pth, or a checkpoint of model=location_aware"
    state = find_weights(checkpoint, _FIRST, "Location-aware SIRR", give)
    return join_gates(state)


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and its settings that a file fits; None if it holds no Location-aware SIRR."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    return "location_aware", [f"model.net.width={_width(state)}"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Raise unless a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights, as :func:`remap` returns them.
        net: a :class:`~reflectzoo.methods.location_aware.net.LocationAwareNet`.
        source: where the weights came from, the subject of the sentence.

    Raises:
        UserError: one sentence that says what the weights are and what was expected.
    """
    ours = net.state_dict()
    found, wanted = _width(state), _width(ours)
    if found != wanted:
        raise UserError(
            f"{source} is a Location-aware SIRR of width {found}, but the model has width {wanted}: set "
            f"model.net.width={found}."
        )
    wrong = misfits(state, net)
    if wrong:
        raise UserError(
            f"{source} is a Location-aware SIRR of width {found} as the model is, but {len(wrong)} of its {len(state)} "
            f"weights do not fit (the first is '{wrong[0]}'): choose the settings of model.net that it was made with."
        )


def _width(state: Mapping[str, Tensor]) -> int:
    return 2 * len(state[_FIRST])
