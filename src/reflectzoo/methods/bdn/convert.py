"""Reading the authors' checkpoints, and telling in one sentence when a file holds another network.

The names of the weights are ours already. Files may have been written by a PyTorch that did not count batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.weights.read import find_weights, misfits, with_counters

_FIRST = "model1.model.model.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the network in a checkpoint and name its weights as this zoo does.

    Takes the authors' state dict, also wrapped in ``state_dict``, one of ours (returned unchanged) and the checkpoints
    that training writes here (the network under ``net.``). A ``module.`` prefix, left by parallel training, is dropped.
    Nothing is modified; tensors are not copied.

    Args:
        checkpoint: what ``torch.load`` returned.

    Returns:
        A state dict for :class:`~reflectzoo.methods.bdn.net.BDNNet`.

    Raises:
        UserError: if there is no BDN in it.

    Example:
        >>> import torch
        >>> list(remap({"module.model1.model.model.0.weight": torch.zeros(64, 3, 4, 4)}))
        ['model1.model.model.0.weight']
    """
    give = "a file of the authors' program, or a checkpoint of model=bdn"
    return with_counters(find_weights(checkpoint, _FIRST, "BDN", give))


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and its settings that a file fits; None if it holds no BDN."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    width, levels = _described(state)
    return "bdn", [f"model.net.width={width}", f"model.net.levels=[{','.join(map(str, levels))}]"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Raise unless a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights, as :func:`remap` returns them.
        net: a :class:`~reflectzoo.methods.bdn.net.BDNNet`.
        source: where the weights came from, the subject of the sentence.

    Raises:
        UserError: one sentence that says what the weights are and what was expected.
    """
    found, wanted = _described(state), _described(net.state_dict())
    if found != wanted:
        raise UserError(
            f"{source} is a BDN of width {found[0]} with {found[1]} levels, but the model has width {wanted[0]} and "
            f"{wanted[1]} levels: set model.net.width and model.net.levels."
        )
    wrong = misfits(state, net)
    if wrong:
        raise UserError(
            f"{source} looks like the BDN of the model, but {len(wrong)} of its {len(state)} weights do not fit (the "
            f"first is '{wrong[0]}'): the file may be damaged or from another version."
        )


def _described(state: Mapping[str, Tensor]) -> tuple[int, list[int]]:
    """Width, and how many levels each part has: one nested ``model`` more for each."""
    levels = [
        max((key.split(".").count("model") for key in state if key.startswith(f"model{part}.")), default=1) - 1
        for part in (1, 2, 3)
    ]
    return len(state[_FIRST]), levels
