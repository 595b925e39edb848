"""Reading the authors' checkpoints, and telling in one sentence when a file holds another network.

The released program writes one file for each network, ``<epoch>_net_G_T.pth`` and ``<epoch>_net_G_R.pth``, plain state
dicts without a prefix. Here the two are one network, under ``G_T.`` and ``G_R.``, and the four gates of each LSTM are
one convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.nets.recurrent import join_gates
from reflectzoo.weights.read import find_weights, misfits, read_checkpoint

GENERATORS = ("G_T", "G_R")
_FIRST = "G_T.conv1.0.weight"


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the network in a checkpoint and name its weights as this zoo does.

    Takes the authors' two state dicts under the keys ``G_T`` and ``G_R`` (:func:`gather` puts them there), one state
    dict with these prefixes, one of ours (returned unchanged) and the checkpoints that training writes here (the
    network under ``net.``). A ``module.`` prefix, left by parallel training, is dropped. Nothing is modified; tensors
    are not copied, except that the gates are joined.

    Args:
        checkpoint: what ``torch.load`` or :func:`gather` returned.

    Returns:
        A state dict for :class:`~reflectzoo.methods.ibcln.net.IBCLNNet`.

    Raises:
        UserError: if there is no such network in it, or some but not all of its gates.

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
    """Read the other one of the program's two files.

    Args:
        path: of a file of weights.
        checkpoint: its content.

    Returns:
        ``{"G_T": ..., "G_R": ...}`` if it is one of the two, otherwise the content as it is.

    Raises:
        UserError: if the other one is not beside it, cannot be read, or does not hold such a network.
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
    # Location-aware SIRR has these, too.
    return {"conv1.0.weight", "conv_i.0.weight"} <= names and "det_conv0.0.weight" not in names


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and its settings that a file fits; None if it holds no IBCLN."""
    try:
        state = remap(checkpoint)
    except (UserError, AttributeError, TypeError):
        return None
    return "ibcln", [f"model.net.width={len(state[_FIRST])}"]


def check_layout(state: Mapping[str, Tensor], net: nn.Module, source: str = "The checkpoint") -> None:
    """Raise unless a state dict fits a network by name and shape, so that ``load_state_dict`` will succeed.

    Args:
        state: weights, as :func:`remap` returns them.
        net: an :class:`~reflectzoo.methods.ibcln.net.IBCLNNet`.
        source: where the weights came from, the subject of the sentence.

    Raises:
        UserError: one sentence that says what the weights are and what was expected.
    """
    found, wanted = len(state[_FIRST]), len(net.state_dict()[_FIRST])
    if found != wanted:
        raise UserError(
            f"{source} is an IBCLN of width {found}, but the model has width {wanted}: set model.net.width={found}."
        )
    wrong = misfits(state, net)
    if wrong:
        raise UserError(
            f"{source} is an IBCLN of width {found} as the model is, but {len(wrong)} of its {len(state)} weights do "
            f"not fit (the first is '{wrong[0]}'): the file may be damaged or from another version."
        )
