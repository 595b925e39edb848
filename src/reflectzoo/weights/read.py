"""Reading weights and checkpoints without running what is in them, and finding the one to go on from."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflectzoo.core.content import what_it_is
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
    if not path.exists():
        raise UserError(f"{key}={path} does not exist: give the path of a .ckpt file.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{key}={path} is {kind}: give the path of a .ckpt file.")
    damage = what_is_wrong(path)
    if damage is not None:
        again = "" if "download it again" in damage else "; download it again"
        raise UserError(f"{key}={path} cannot be read as a checkpoint: {damage}{again}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{key}={path} cannot be read: it is not a PyTorch checkpoint, or one that would run code when loaded."
        ) from error
    except Exception as error:  # what a damaged pickle runs into cannot be listed
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{key}={path} cannot be read as a checkpoint: it is damaged ({told}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{key}={path} holds a {type(content).__name__}, not a checkpoint.")
    return content


def what_is_wrong(path: Path) -> str | None:
    """Why a file cannot be a whole checkpoint, in words; None if every part of it has the checksum written with it.

    PyTorch compares no checksums: it would give back damaged weights as if they were whole. Files of the format before
    PyTorch 1.6 have none.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096)
        if not start:
            return "it is empty (0 bytes)"
        if start[:2] != b"PK":
            return None if start[:1] == b"\x80" else f"it is {what_it_is(start) or 'not a PyTorch checkpoint'}"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile:
        return "it is incomplete, its end is missing"
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
        return f"it is damaged ({str(error) or type(error).__name__})"
    return None if broken is None else f"it is damaged, the checksum of '{broken}' is wrong"


def resumable(folder: Path) -> tuple[Path | None, str]:
    """The checkpoint of a folder from which training goes on.

    Args:
        folder: with ``last.ckpt``, and perhaps the one before it.

    Returns:
        Its path, None if there is none that is whole; and what is wrong with the last one, empty if nothing is.
    """
    damage = ""
    for name in (LAST, PREVIOUS):
        path = folder / name
        if path.is_file():
            wrong = what_is_wrong(path)
            if wrong is None:
                return path, damage
            damage = damage or wrong
    return None, damage


def sha256_of(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_run(output_dir: Path, choice: str) -> Path | None:
    """The folder of the newest run of a model (or experiment) that left a checkpoint to go on from.

    Args:
        output_dir: where runs are kept (``paths.output_dir``).
        choice: name of the model or experiment, the folder that its runs stand in.
    """
    found = [file for name in (LAST, PREVIOUS) for file in output_dir.glob(f"{choice}/*/checkpoints/{name}")]
    return max(found, key=lambda file: file.stat().st_mtime).parent.parent if found else None


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


def with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the counters of batch normalisations, which old versions of PyTorch did not write.

    Nothing but a momentum of None would look at them.
    """
    complete: dict[str, Tensor] = {}
    for key, value in state.items():
        complete[key] = value
        counter = key.removesuffix("running_var") + "num_batches_tracked"
        if key.endswith(".running_var") and counter not in state:
            complete[counter] = torch.zeros((), dtype=torch.int64)
    return complete


def misfits(state: Mapping[str, Tensor], net: nn.Module) -> list[str]:
    """Names of weights that a network lacks, or has in another shape, or that the state dict lacks; sorted."""
    shapes, given = ({key: value.shape for key, value in each.items()} for each in (net.state_dict(), state))
    return sorted(key for key in shapes.keys() | given.keys() if shapes.get(key) != given.get(key))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a file of named tensors (``.pth``, ``.pt``) on the CPU.

    Raises:
        UserError: if there is no such file, it cannot be read, or it holds anything but named tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no weights file {path}: check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # What torch.load raises depends on where the damage sits: unpickling, zip, end of file, key and type errors.
    except Exception as error:
        wrong = what_is_wrong(path) or "it is damaged, or not a file of torch.save"
        raise UserError(f"The weights file {path} cannot be read, {wrong}; delete it and download it again.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"The weights file {path} holds no plain state dict (names and tensors): give one that does.")
    return state
