"""Reading weights and checkpoints without executing code in them, and finding the one to resume from."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflectzoo.core.content import describe_content
from reflectzoo.errors import UserError

LAST = "last.ckpt"
"""File name of the checkpoint from which training resumes."""
PREVIOUS = "last.previous.ckpt"
"""File name of its predecessor, kept in case the last one is damaged."""


def read_checkpoint(path: Path, key: str = "ckpt_path") -> dict[str, Any]:
    """Load a checkpoint's dictionary on the CPU with ``weights_only=True``.

    Args:
        path: the file.
        key: the configuration key it came from, for the message.

    Raises:
        UserError: if it is missing, unreadable, would execute code when loaded, or holds no dictionary.
    """
    if not path.exists():
        raise UserError(f"{key}={path} does not exist: give the path of a .ckpt file.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{key}={path} is {kind}: give the path of a .ckpt file.")
    damage = find_damage(path)
    if damage is not None:
        again = "" if "download it again" in damage else "; download it again"
        raise UserError(f"{key}={path} cannot be read as a checkpoint: {damage}{again}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{key}={path} cannot be read: it is not a PyTorch checkpoint, or one that would run code when loaded."
        ) from error
    except Exception as error:  # the errors of damaged pickles cannot be enumerated
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{key}={path} cannot be read as a checkpoint: it is damaged ({told}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{key}={path} holds a {type(content).__name__}, not a checkpoint.")
    return content


def find_damage(path: Path) -> str | None:
    """The fault of a damaged or incomplete checkpoint, in words; None if all of its checksums are right.

    PyTorch does not compare checksums and would return damaged weights without an error. Files in the format before
    PyTorch 1.6 have no checksums and pass.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096)
        if not start:
            return "it is empty (0 bytes)"
        if start[:2] != b"PK":
            return None if start[:1] == b"\x80" else f"it is {describe_content(start) or 'not a PyTorch checkpoint'}"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile:
        return "it is incomplete, its end is missing"
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
        return f"it is damaged ({str(error) or type(error).__name__})"
    return None if broken is None else f"it is damaged, the checksum of '{broken}' is wrong"


def resumable(folder: Path) -> tuple[Path | None, str]:
    """The checkpoint in a folder from which to resume training.

    Args:
        folder: contains ``last.ckpt`` and perhaps its predecessor.

    Returns:
        The path of the newest intact checkpoint, None if there is none; and the fault of the newest checkpoint, empty
        if it is intact or there is none.
    """
    damage = ""
    for name in (LAST, PREVIOUS):
        path = folder / name
        if path.is_file():
            wrong = find_damage(path)
            if wrong is None:
                return path, damage
            damage = damage or wrong
    return None, damage


def sha256_of(path: Path) -> str:
    """The SHA-256 hash of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_run(output_dir: Path, choice: str) -> Path | None:
    """The folder of the newest run of a model or experiment with a checkpoint to resume from; None if there is none.

    Args:
        output_dir: root folder of all runs (``paths.output_dir``).
        choice: name of the model or experiment, and of the folder that contains its runs.
    """
    found = [file for name in (LAST, PREVIOUS) for file in output_dir.glob(f"{choice}/*/checkpoints/{name}")]
    return max(found, key=lambda file: file.stat().st_mtime).parent.parent if found else None


def find_weights(checkpoint: Mapping[str, Any], first: str, name: str, give: str) -> dict[str, Tensor]:
    """The weights of a network in a plain state dict, one wrapped in ``state_dict``, or a training checkpoint.

    The prefix ``module.`` of parallel training and the prefix ``net.`` of training checkpoints are removed. Tensors are
    not copied.

    Args:
        checkpoint: return value of ``torch.load``.
        first: name of a weight that only this network has.
        name: name of the network, for the message.
        give: description of suitable files, for the message.

    Raises:
        UserError: if the checkpoint does not contain this network.
    """
    entries = checkpoint.get("state_dict", checkpoint)
    state = {str(key).removeprefix("module."): value for key, value in entries.items() if isinstance(value, Tensor)}
    if f"net.{first}" in state:
        state = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    if first not in state:
        found = f"its first weight is '{next(iter(state))}'" if state else "it holds no weights"
        raise UserError(f"This checkpoint is not a {name} ({found}): give {give}.")
    return state


def add_batch_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the counters of batch normalisation layers added, which old versions of PyTorch did not save.

    They are zero; their values matter only if ``momentum`` is None.
    """
    complete: dict[str, Tensor] = {}
    for key, value in state.items():
        complete[key] = value
        counter = key.removesuffix("running_var") + "num_batches_tracked"
        if key.endswith(".running_var") and counter not in state:
            complete[counter] = torch.zeros((), dtype=torch.int64)
    return complete


def mismatched_keys(state: Mapping[str, Tensor], net: nn.Module) -> list[str]:
    """Sorted names of the weights that only the network or only the state dict has, or that differ in shape."""
    shapes, given = ({key: value.shape for key, value in each.items()} for each in (net.state_dict(), state))
    return sorted(key for key in shapes.keys() | given.keys() if shapes.get(key) != given.get(key))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a file of named tensors (``.pth``, ``.pt``) on the CPU.

    Raises:
        UserError: if the file is missing or unreadable, or holds anything but named tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no weights file {path}: check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # The error of torch.load depends on where the damage is: unpickling, zip, end-of-file, key and type errors.
    except Exception as error:
        wrong = find_damage(path) or "it is damaged, or not a file of torch.save"
        raise UserError(f"The weights file {path} cannot be read, {wrong}; delete it and download it again.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"The weights file {path} holds no plain state dict (names and tensors): give one that does.")
    return state
