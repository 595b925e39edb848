"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

Files of the authors' program (``checkpoint_<epoch>.pth.tar``) are dictionaries with ``epoch``, ``state_dict`` and
``optimizer``. The names of the weights are the same here. The batch counters of batch normalisation may be missing,
since old versions of PyTorch did not save them; they matter only if ``momentum`` is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.weights.read import add_batch_counters, find_weights, mismatched_keys

_FIRST = "convs1R.0.weight"
_GUIDANCE = "pred1_contour.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' dictionary, a bare state dict, reflectzoo's (returned unchanged), and training checkpoints (the
    network under ``net.``). The prefix ``module.`` of parallel training is removed. Nothing is modified; tensors are
    not copied.

    Args:
        checkpoint: return value of ``torch.load``.

    Returns:
        A state dict for :class:`~reflectzoo.methods.corrn.net.CoRRNNet`.

    Raises:
        UserError: if the checkpoint holds no CoRRN.

    Example:
        >>> import torch
        >>> weight = torch.zeros(64, 3, 3, 3)
        >>> list(remap({"epoch": 40, "state_dict": {"module.convs1R.0.weight": weight}, "optimizer": {}}))
        ['convs1R.0.weight']
    """
    give = "a file of the authors' program, with an entry 'state_dict', or a checkpoint of model=corrn"
    return add_batch_counters(find_weights(checkpoint, _FIRST, "CoRRN", give))


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and the overrides that fit a file; None if it holds no CoRRN."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    width = len(state[_FIRST])
    return "corrn", [f"model.net.width={width}", f"model.net.gradient_decoder={str(_GUIDANCE in state).lower()}"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: a :class:`~reflectzoo.methods.corrn.net.CoRRNNet`.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    ours = net.state_dict()
    found, wanted = _describe(state), _describe(ours)
    if found != wanted:
        raise UserError(f"{source} is a CoRRN {found}, but the model is one {wanted}: choose the settings that fit.")
    wrong = mismatched_keys(state, net)
    if wrong:
        raise UserError(
            f"{source} looks like the CoRRN {wanted} of the model, but {len(wrong)} of its {len(state)} weights do not "
            f"fit (the first is '{wrong[0]}'): the file may be damaged or from another version."
        )


def _describe(state: Mapping[str, Tensor]) -> str:
    return f"of width {len(state[_FIRST])} {'with' if _GUIDANCE in state else 'without'} gradient decoder"
