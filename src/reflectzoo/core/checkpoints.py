"""Reading checkpoints without running what is in them, and finding the one to go on from."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflectzoo.errors import UserError

LAST = "last.ckpt"
"""The checkpoint from which training goes on."""
PREVIOUS = "last.previous.ckpt"
"""The one before it, should the last one be damaged."""


def read_checkpoint(path: Path, key: str = "ckpt_path") -> dict[str, Any]:
    """Load a checkpoint's dictionary on the CPU with ``weights_only=True``.

    Args:
        path: the file.
        key: the configuration key it came from, for the message.

    Raises:
        UserError: if it is missing, unreadable, needs arbitrary code, or is no dictionary.
    """
    if not path.is_file():
        raise UserError(f"{key}={path} does not exist: give the path of a .ckpt file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{key}={path} cannot be read: it is not a PyTorch checkpoint, or one that would run code when loaded."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{key}={path} cannot be read as a checkpoint, it is damaged or incomplete ({error})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{key}={path} holds a {type(content).__name__}, not a checkpoint.")
    return content


def newest_run(output_dir: Path, choice: str) -> Path | None:
    """The folder of the newest run of a model (or experiment) that left a ``checkpoints/last.ckpt``.

    Args:
        output_dir: where runs are kept (``paths.output_dir``).
        choice: name of the model or experiment, the folder that its runs stand in.
    """
    found = sorted(output_dir.glob(f"{choice}/*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    return found[-1].parent.parent if found else None


def find_weights(checkpoint: Mapping[str, Any], first: str, name: str, give: str) -> dict[str, Tensor]:
    """The weights of a network in a plain state dict, one wrapped in ``state_dict``, or a checkpoint of the training.

    A ``module.`` prefix, left by parallel training, and the ``net.`` of the training's checkpoints are dropped. Tensors
    are not copied.

    Args:
        checkpoint: what ``torch.load`` returned.
        first: name of a weight that only this network has.
        name: the network's, for the message.
        give: which files would do, likewise.

    Raises:
        UserError: if there is no such network in it.
    """
    entries = checkpoint.get("state_dict", checkpoint)
    state = {str(key).removeprefix("module."): value for key, value in entries.items() if isinstance(value, Tensor)}
    if f"net.{first}" in state:
        state = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    if first not in state:
        found = f"its first weight is '{next(iter(state))}'" if state else "it holds no weights"
        raise UserError(f"This checkpoint is not a {name} ({found}): give {give}.")
    return state


def misfits(state: Mapping[str, Tensor], net: nn.Module) -> list[str]:
    """Names of weights that a network lacks, or has in another shape, or that the state dict lacks; sorted."""
    shapes, given = ({key: value.shape for key, value in each.items()} for each in (net.state_dict(), state))
    return sorted(key for key in shapes.keys() | given.keys() if shapes.get(key) != given.get(key))
