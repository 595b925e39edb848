"""Reading the authors' checkpoints, and telling in one sentence when a file holds another network.

Files of the released program (``checkpoint_<epoch>.pth.tar``) are dictionaries with ``epoch``, ``state_dict`` and
``optimizer``. The names of the weights are ours already. They were written by a PyTorch that did not count batches, so
the counters of the batch normalisations may be missing; nothing but a momentum of None would need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.weights.read import find_weights, misfits, with_counters

_FIRST = "convs1R.0.weight"
_GUIDANCE = "pred1_contour.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the network in a checkpoint and name its weights as this zoo does.

    Takes the authors' dictionary, a bare state dict, one of ours (returned unchanged) and the checkpoints that training
    writes here (the network under ``net.``). A ``module.`` prefix, left by parallel training, is dropped. Nothing is
    modified; tensors are not copied.

    Args:
        checkpoint: what ``torch.load`` returned.

    Returns:
        A state dict for :class:`~reflectzoo.methods.corrn.net.CoRRNNet`.

    Raises:
        UserError: if there is no CoRRN in it.

    Example:
        >>> import torch
        >>> weight = torch.zeros(64, 3, 3, 3)
        >>> list(remap({"epoch": 40, "state_dict": {"module.convs1R.0.weight": weight}, "optimizer": {}}))
        ['convs1R.0.weight']
    """
    give = "a file of the authors' program, with an entry 'state_dict', or a checkpoint of model=corrn"
    return with_counters(find_weights(checkpoint, _FIRST, "CoRRN", give))


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and its settings that a file fits; None if it holds no CoRRN."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    width = len(state[_FIRST])
    return "corrn", [f"model.net.width={width}", f"model.net.gradient_decoder={str(_GUIDANCE in state).lower()}"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Raise unless a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights, as :func:`remap` returns them.
        net: a :class:`~reflectzoo.methods.corrn.net.CoRRNNet`.
        source: where the weights came from, the subject of the sentence.

    Raises:
        UserError: one sentence that says what the weights are and what was expected.
    """
    ours = net.state_dict()
    found, wanted = _describe(state), _describe(ours)
    if found != wanted:
        raise UserError(f"{source} is a CoRRN {found}, but the model is one {wanted}: choose the settings that fit.")
    wrong = misfits(state, net)
    if wrong:
        raise UserError(
            f"{source} looks like the CoRRN {wanted} of the model, but {len(wrong)} of its {len(state)} weights do not "
            f"fit (the first is '{wrong[0]}'): the file may be damaged or from another version."
        )


def _describe(state: Mapping[str, Tensor]) -> str:
    return f"of width {len(state[_FIRST])} {'with' if _GUIDANCE in state else 'without'} gradient decoder"
