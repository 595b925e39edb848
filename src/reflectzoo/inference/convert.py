"""Weights into a safetensors file that says what they are and where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

import reflectzoo
from reflectzoo.core.registry import method_of
from reflectzoo.errors import UserError
from reflectzoo.inference.load import FORMAT, open_file
from reflectzoo.photo.files import shown, write_atomically
from reflectzoo.weights.read import sha256_of
from reflectzoo.weights.stored import Stored


class Converted(NamedTuple):
    """What was written.

    Attributes:
        model: which method.
        tensors: how many.
        parameters: numbers in them.
        sha256: of the new file.
    """

    model: str
    tensors: int
    parameters: int
    sha256: str


def convert(
    source: Path,
    target: Path,
    model: str | None = None,
    overrides: tuple[str, ...] = (),
    provenance: Mapping[str, str] | None = None,
    overwrite: bool = False,
    half: bool = False,
) -> Converted:
    """Write the network of a file of weights as safetensors.

    The metadata hold ``format`` ("reflectzoo"), ``record`` (JSON: model, network, settings, training phase, the VGG it
    looks through; see :mod:`reflectzoo.weights.stored`) and ``provenance`` (JSON: name and sha256 of the source,
    version, and what was given).

    Args:
        source: see :func:`reflectzoo.load_model`.
        target: ends in ``.safetensors``.
        model: what it is of; None recognises it.
        overrides: of the model's configuration.
        provenance: who trained it, on what, the licence.
        overwrite: replace a file that exists.
        half: store 16-bit floating-point numbers, half the size; loading makes them 32-bit again.

    Raises:
        UserError: as :func:`reflectzoo.load_model` does, if a number is too large for 16 bits, or if the file cannot be
            written.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{shown(target)} must end in .safetensors.")
    if not source.is_file():
        raise UserError(f"There is no weights file {shown(source)}: check the path.")
    if target.exists() and (not overwrite or target.samefile(source)):
        raise UserError(f"{shown(target)} already exists: choose another name with -o.")
    if model is not None:
        method_of(model)
    loaded = open_file(source, model, overrides)
    made = {key: each for key, each in (provenance or {}).items() if each}
    made |= {"source": source.name, "source_sha256": sha256_of(source)}
    return write_network(loaded.net, loaded.stored, target, made, overwrite, half, shown(source))


def write_network(
    net: nn.Module,
    stored: Stored,
    target: Path,
    provenance: Mapping[str, str],
    overwrite: bool = False,
    half: bool = False,
    source: str = "the network",
) -> Converted:
    """Write a network as :func:`convert` does.

    Args:
        net: whose weights they are.
        stored: what it is.
        target: ends in ``.safetensors``.
        provenance: who trained it, on what, the licence.
        overwrite: replace a file that exists.
        half: see there.
        source: the subject of a complaint.

    Raises:
        UserError: if a number is too large for 16 bits, or the file cannot be written.
    """
    made = {**provenance, "version": reflectzoo.__version__}
    metadata = {"format": FORMAT, "record": json.dumps(stored.as_record()), "provenance": json.dumps(made)}
    state = {key: each.detach().contiguous().clone() for key, each in net.state_dict().items()}
    if half:
        state = {key: _halved(each, key, source) for key, each in state.items()}
    data = save(state, metadata)
    write_atomically(target, data, overwrite)
    total = sum(each.numel() for each in state.values())
    return Converted(stored.model, len(state), total, hashlib.sha256(data).hexdigest())


def _halved(tensor: Tensor, key: str, source: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not bool(torch.isfinite(halved).all()):
        raise UserError(f"{key} of {source} contains a number that does not fit into 16 bits: leave out --half.")
    return halved
