"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

Files of the authors' program (``errnet_060_00463920.pt``) are dictionaries with ``icnn``, ``opt_g``, ``epoch``,
``iterations``, and ``opt_d``, ``netD`` if the adversarial term is used. Module names are the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.hypercolumn import HYPERCOLUMN_CHANNELS
from reflectzoo.weights.read import find_weights, mismatched_keys

_FIRST = "conv1.conv2d.weight"
_ALSO = "res_module.0.conv1.conv2d.weight"
_OURS = "loss.terms.adversarial.discriminator."


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' dictionary, a bare state dict, reflectzoo's (returned unchanged), and training checkpoints (the
    network under ``net.``). The prefix ``module.`` of parallel training is removed. Nothing is modified; tensors are
    not copied.

    Args:
        checkpoint: return value of ``torch.load``.

    Returns:
        A state dict for :class:`~reflectzoo.methods.errnet.net.ERRNet`.

    Raises:
        UserError: if the checkpoint holds no ERRNet.

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
    """The discriminator in a checkpoint of the authors' program or of reflectzoo; empty if there is none."""
    theirs = checkpoint.get("netD")
    if isinstance(theirs, Mapping):
        return {str(key).removeprefix("module."): each for key, each in theirs.items() if isinstance(each, Tensor)}
    entries = checkpoint.get("state_dict") or {}
    return {key.removeprefix(_OURS): each for key, each in entries.items() if key.startswith(_OURS)}


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and the overrides that fit a file; None if it holds no ERRNet."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    return "errnet", [f"model.net.{key}={str(value).lower()}" for key, value in _settings(state).items()]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: a :class:`~reflectzoo.methods.errnet.net.ERRNet`.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    found, wanted = _settings(state), _settings(net.state_dict())
    other = [f"model.net.{key}={str(found[key]).lower()}" for key in found if found[key] != wanted[key]]
    if other:
        raise UserError(f"{source} is a different ERRNet from the model: set {' '.join(other)}.")
    wrong = mismatched_keys(state, net)
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
