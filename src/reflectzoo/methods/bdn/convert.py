"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

The names of the weights are the same here. Files may lack the batch counters of batch normalisation, which old versions
of PyTorch did not save.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.weights.read import add_batch_counters, find_weights, mismatched_keys

_FIRST = "model1.model.model.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' state dict, also wrapped in ``state_dict``, reflectzoo's (returned unchanged), and training
    checkpoints (the network under ``net.``). The prefix ``module.`` of parallel training is removed. Nothing is
    modified; tensors are not copied.

    Args:
        checkpoint: return value of ``torch.load``.

    Returns:
        A state dict for :class:`~reflectzoo.methods.bdn.net.BDNNet`.

    Raises:
        UserError: if the checkpoint holds no BDN.

    Example:
        >>> import torch
        >>> list(remap({"module.model1.model.model.0.weight": torch.zeros(64, 3, 4, 4)}))
        ['model1.model.model.0.weight']
    """
    give = "a file of the authors' program, or a checkpoint of model=bdn"
    return add_batch_counters(find_weights(checkpoint, _FIRST, "BDN", give))


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and the overrides that fit a file; None if it holds no BDN."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    width, levels = _described(state)
    return "bdn", [f"model.net.width={width}", f"model.net.levels=[{','.join(map(str, levels))}]"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: a :class:`~reflectzoo.methods.bdn.net.BDNNet`.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    found, wanted = _described(state), _described(net.state_dict())
    if found != wanted:
        raise UserError(
            f"{source} is a BDN of width {found[0]} with {found[1]} levels, but the model has width {wanted[0]} and "
            f"{wanted[1]} levels: set model.net.width and model.net.levels."
        )
    wrong = mismatched_keys(state, net)
    if wrong:
        raise UserError(
            f"{source} looks like the BDN of the model, but {len(wrong)} of its {len(state)} weights do not fit (the "
            f"first is '{wrong[0]}'): the file may be damaged or from another version."
        )


def _described(state: Mapping[str, Tensor]) -> tuple[int, list[int]]:
    """Width, and the number of levels of each part, which is the nesting depth of ``model`` in its keys."""
    levels = [
        max((key.split(".").count("model") for key in state if key.startswith(f"model{part}.")), default=1) - 1
        for part in (1, 2, 3)
    ]
    return len(state[_FIRST]), levels
