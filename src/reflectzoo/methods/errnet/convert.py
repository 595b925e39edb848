"""Reading the authors' checkpoints, and telling in one sentence when a file holds another network.

Files of the released program (``errnet_060_00463920.pt``) are dictionaries with ``icnn``, ``opt_g``, ``epoch``,
``iterations``, and ``opt_d``, ``netD`` when the adversarial term is on. Module names are ours already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.hypercolumn import HYPERCOLUMN_CHANNELS
from reflectzoo.weights.read import find_weights, misfits

_FIRST = "conv1.conv2d.weight"
_ALSO = "res_module.0.conv1.conv2d.weight"
_OURS = "loss.terms.adversarial.discriminator."


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the network in a checkpoint and name its weights as this zoo does.

    Takes the authors' dictionary, a bare state dict, one of ours (returned unchanged) and the checkpoints that training
    writes here (the network under ``net.``). A ``module.`` prefix, left by parallel training, is dropped. Nothing is
    modified; tensors are not copied.

    Args:
        checkpoint: what ``torch.load`` returned.

    Returns:
        A state dict for :class:`~reflectzoo.methods.errnet.net.ERRNet`.

    Raises:
        UserError: if there is no such network in it.

    Example:
        >>> import torch
        >>> state = {"conv1.conv2d.weight": torch.zeros(4, 3, 1, 1)}
        >>> state |= {"res_module.0.conv1.conv2d.weight": torch.zeros(4, 4, 3, 3)}
        >>> list(remap({"icnn": {f"module.{key}": value for key, value in state.items()}, "epoch": 60}))
        ['conv1.conv2d.weight', 'res_module.0.conv1.conv2d.weight']
    """
    entries = checkpoint["icnn"] if isinstance(checkpoint.get("icnn"), Mapping) else checkpoint
    give = "a file of the authors' program, with an entry 'icnn', or a checkpoint of model=errnet"
    state = find_weights(entries, _FIRST, "network of ERRNet", give)
    if _ALSO not in state:
        raise UserError(f"This checkpoint is not a network of ERRNet (it has no residual blocks): give {give}.")
    return state


def discriminator(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The discriminator of either program's checkpoint, which the network was trained against; empty if it has none."""
    theirs = checkpoint.get("netD")
    if isinstance(theirs, Mapping):
        return {str(key).removeprefix("module."): each for key, each in theirs.items() if isinstance(each, Tensor)}
    entries = checkpoint.get("state_dict") or {}
    return {key.removeprefix(_OURS): each for key, each in entries.items() if key.startswith(_OURS)}


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and its settings that a file fits; None if it holds no ERRNet."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    return "errnet", [f"model.net.{key}={str(value).lower()}" for key, value in _settings(state).items()]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Raise unless a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights, as :func:`remap` returns them.
        net: a :class:`~reflectzoo.methods.errnet.net.ERRNet`.
        source: where the weights came from, the subject of the sentence.

    Raises:
        UserError: one sentence that says what the weights are and what was expected.
    """
    found, wanted = _settings(state), _settings(net.state_dict())
    other = [f"model.net.{key}={str(found[key]).lower()}" for key in found if found[key] != wanted[key]]
    if other:
        raise UserError(f"{source} is a different ERRNet from the model: set {' '.join(other)}.")
    wrong = misfits(state, net)
    if wrong:
        raise UserError(
            f"{source} is an ERRNet as the model is, but {len(wrong)} of its {len(state)} weights do not fit (the "
            f"first is '{wrong[0]}'): the file may be damaged."
        )


def _settings(state: Mapping[str, Tensor]) -> dict[str, int | bool]:
    width, channels = state[_FIRST].shape[:2]
    return {
        "hypercolumn": channels == HYPERCOLUMN_CHANNELS,
        "width": int(width),
        "blocks": len({key.split(".")[1] for key in state if key.startswith("res_module.")}),
        "attention": any(".se_layer." in key for key in state),
        "pyramid": any(key.startswith("pyramid_module.") for key in state),
    }
