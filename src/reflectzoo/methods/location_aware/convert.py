"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

The file of the authors' program (``model.pth``) is a plain state dict. Its names are the same here, except for the four
gates of the LSTM, which are four convolutions there and one here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.recurrent import join_gates
from reflectzoo.weights.read import find_weights, mismatched_keys

_FIRST = "det_conv0.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' state dict, also wrapped in ``state_dict``, reflectzoo's (returned unchanged), and training
    checkpoints (the network under ``net.``). The prefix ``module.`` of parallel training is removed. Nothing is
    modified; tensors are not copied, except for the concatenated gates.

    Args:
        checkpoint: return value of ``torch.load``.

    Returns:
        A state dict for :class:`~reflectzoo.methods.location_aware.net.LocationAwareNet`.

    Raises:
        UserError: if the checkpoint holds no such network, or only some of its gates.

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
    """The model and the overrides that fit a file; None if it holds no Location-aware SIRR."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    return "location_aware", [f"model.net.width={_width(state)}"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: a :class:`~reflectzoo.methods.location_aware.net.LocationAwareNet`.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    ours = net.state_dict()
    found, wanted = _width(state), _width(ours)
    if found != wanted:
        raise UserError(
            f"{source} is a Location-aware SIRR of width {found}, but the model has width {wanted}: set "
            f"model.net.width={found}."
        )
    wrong = mismatched_keys(state, net)
    if wrong:
        raise UserError(
            f"{source} is a Location-aware SIRR of width {found} as the model is, but {len(wrong)} of its {len(state)} "
            f"weights do not fit (the first is '{wrong[0]}'): choose the settings of model.net that it was made with."
        )


def _width(state: Mapping[str, Tensor]) -> int:
    return 2 * len(state[_FIRST])
