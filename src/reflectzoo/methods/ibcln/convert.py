"""Conversion of the authors' checkpoints, with clear errors for files of other networks.

The authors' program writes one file per network, ``<epoch>_net_G_T.pth`` and ``<epoch>_net_G_R.pth``, plain state dicts
without a prefix. Here the two form one network, under ``G_T.`` and ``G_R.``, and the four gates of each LSTM are one
convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.recurrent import join_gates
from reflectzoo.weights.read import find_weights, mismatched_keys, read_checkpoint

GENERATORS = ("G_T", "G_R")
_FIRST = "G_T.conv1.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the network from a checkpoint and rename its weights to reflectzoo's names.

    Accepts the authors' two state dicts under the keys ``G_T`` and ``G_R`` (as returned by :func:`gather`), one state
    dict with these prefixes, reflectzoo's (returned unchanged), and training checkpoints (the network under ``net.``).
    The prefix ``module.`` of parallel training is removed. Nothing is modified; tensors are not copied, except for the
    concatenated gates.

    Args:
        checkpoint: return value of ``torch.load`` or :func:`gather`.

    Returns:
        A state dict for :class:`~reflectzoo.methods.ibcln.net.IBCLNNet`.

    Raises:
        UserError: if the checkpoint holds no IBCLN, or only some of an LSTM's gates.

    Example:
        >>> import torch
        >>> one = {"module.conv1.0.weight": torch.zeros(64, 9, 5, 5)}
        >>> list(remap({"G_T": one, "G_R": one}))
        ['G_T.conv1.0.weight', 'G_R.conv1.0.weight']
    """
    if all(isinstance(checkpoint.get(part), Mapping) for part in GENERATORS):
        checkpoint = {
            f"{part}.{str(key).removeprefix('module.')}": value
            for part in GENERATORS
            for key, value in checkpoint[part].items()
        }
    give = "the authors' net_G_T.pth with net_G_R.pth beside it, or a checkpoint of model=ibcln"
    return join_gates(find_weights(checkpoint, _FIRST, "IBCLN", give))


def gather(path: Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the second of the authors' two files.

    Args:
        path: path of the first file.
        checkpoint: its content.

    Returns:
        ``{"G_T": ..., "G_R": ...}`` if it is one of the two, otherwise the content unchanged.

    Raises:
        UserError: if the file's name does not tell which of the two it is, or the second file is missing, cannot be
            read, or does not hold such a network.
    """
    if not _is_generator(checkpoint):
        return checkpoint
    here = next((part for part in GENERATORS if part in path.name), None)
    if here is None:
        raise UserError(
            f"{path.name} holds one of IBCLN's two networks, but its name does not say which: name the files "
            "net_G_T.pth and net_G_R.pth."
        )
    other = next(part for part in GENERATORS if part != here)
    beside = path.with_name(path.name.replace(here, other))
    if not beside.is_file():
        raise UserError(f"{path.name} holds one of IBCLN's two networks: put the other one, {beside.name}, beside it.")
    found = read_checkpoint(beside, "weights")
    if not _is_generator(found):
        raise UserError(f"{beside.name} does not contain IBCLN's {other}: download it again.")
    return {here: checkpoint, other: found}


def _is_generator(checkpoint: Mapping[str, Any]) -> bool:
    names = {str(key).removeprefix("module.") for key in checkpoint}
    # Location-aware SIRR also has these two names.
    return {"conv1.0.weight", "conv_i.0.weight"} <= names and "det_conv0.0.weight" not in names


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and the overrides that fit a file; None if it holds no IBCLN."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    return "ibcln", [f"model.net.width={len(state[_FIRST])}"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Check that a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights as returned by :func:`remap`.
        net: an :class:`~reflectzoo.methods.ibcln.net.IBCLNNet`.
        source: origin of the weights, the subject of the message.

    Raises:
        UserError: if they do not fit; the message describes the weights and what was expected.
    """
    found, wanted = len(state[_FIRST]), len(net.state_dict()[_FIRST])
    if found != wanted:
        raise UserError(
            f"{source} is an IBCLN of width {found}, but the model has width {wanted}: set model.net.width={found}."
        )
    wrong = mismatched_keys(state, net)
    if wrong:
        raise UserError(
            f"{source} is an IBCLN of width {found} as the model is, but {len(wrong)} of its {len(state)} weights do "
            f"not fit (the first is '{wrong[0]}'): the file may be damaged or from another version."
        )
