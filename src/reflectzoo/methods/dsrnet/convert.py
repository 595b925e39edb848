"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

Checkpoints of the authors' program are dictionaries with ``weight``, ``epoch``, ``iterations`` and ``opt_g`` (older
ones have ``icnn`` instead of ``weight``); released weights may be a plain state dict. XReflection, which adopted the
network, stores it under ``net_g.``. Module names are the same here, except for the residue's layers, which the program
registers once per stream, as equal ``seq_l`` and ``seq_r``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.weights.read import find_weights, mismatched_keys

_FIRST = "intro.block_intro.1.a_l"
_ENDING = "ending.seq.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' dictionaries, a bare state dict, reflectzoo's (returned unchanged), XReflection's, and training
    checkpoints (the network under ``net.``). The prefix ``module.`` of parallel training is removed. Nothing is
    modified; tensors are not copied.

    Args:
        checkpoint: return value of ``torch.load``.

    Returns:
        A state dict for :class:`~reflectzoo.methods.dsrnet.net.DSRNet`.

    Raises:
        UserError: if the checkpoint holds no DSRNet, or layers shared by both streams are stored with unequal values.

    Example:
        >>> state = {"intro.block_intro.1.a_l": torch.zeros(1), "ending.seq.0.weight": torch.zeros(3, 8, 3, 3)}
        >>> state |= {f"lrm.intro.seq_{stream}.0.bias": torch.zeros(16) for stream in "lr"}
        >>> list(remap({"weight": state, "epoch": 18}))
        ['intro.block_intro.1.a_l', 'ending.seq.0.weight', 'lrm.intro.seq.0.bias']
    """
    entries = checkpoint.get("state_dict", checkpoint)
    for name in ("weight", "icnn"):
        if isinstance(checkpoint.get(name), Mapping):
            entries = checkpoint[name]
    theirs = {str(key).removeprefix("net_g."): each for key, each in entries.items() if str(key).startswith("net_g.")}
    give = "a file of the authors' program, or a checkpoint of model=dsrnet_*"
    state = find_weights(theirs or entries, _FIRST, "DSRNet", give)
    if _ENDING not in state:
        raise UserError(f"This checkpoint is not a DSRNet (it has no output layer): give {give}.")
    return _one_of_two(state)


def _one_of_two(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        ours = key.replace(".seq_l.", ".seq.").replace(".seq_r.", ".seq.")
        if ours in found and not torch.equal(found[ours], value):
            raise UserError(f"This checkpoint has two layers in place of '{ours}', which is one: it may be damaged.")
        found[ours] = value
    return found


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and the overrides that fit a file; None if it holds no DSRNet."""
    try:
        settings = _settings(remap(checkpoint))
    except (UserError, AttributeError, TypeError):
        return None
    words = [f"model.net.{key}={_written(value)}" for key, value in settings.items()]
    return ("dsrnet_l" if len(settings["encoder"]) > 3 else "dsrnet_s"), words


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: a :class:`~reflectzoo.methods.dsrnet.net.DSRNet`.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    found, wanted = _settings(state), _settings(net.state_dict())
    other = [f"'model.net.{key}={_written(found[key])}'" for key in found if found[key] != wanted[key]]
    if other:
        raise UserError(f"{source} is a different DSRNet from the model: set {' '.join(other)}.")
    wrong = mismatched_keys(state, net)
    if wrong:
        raise UserError(
            f"{source} is a DSRNet as the model is, but {len(wrong)} of its {len(state)} weights do not fit (the first "
            f"is '{wrong[0]}'): the file may be damaged."
        )


def _settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    def blocks(prefix: str) -> int:
        """The number of different indices that follow a prefix."""
        depth = prefix.count(".")
        return len({key.split(".")[depth] for key in state if key.startswith(prefix)})

    return {
        "width": int(state[_ENDING].shape[1]),
        "encoder": [blocks(f"encoders.{level}.") for level in range(blocks("encoders."))],
        "middle": blocks("middle_blks."),
        "decoder": [blocks(f"decoders.{level}.") for level in range(blocks("decoders."))],
        "residue": [blocks("lrm.blocks_inter."), blocks("lrm.blocks_merge.")],
        "shared_b": "intro.block_intro.1.b" in state,
        "hypercolumn": any(key.startswith("intro.block5.") for key in state),
    }


def _written(value: object) -> str:
    return str(value).replace(" ", "").lower()
