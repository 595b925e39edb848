"""Convert weights to a safetensors file whose metadata describe the network and its provenance."""

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
from reflectzoo.photo.files import quoted_path, write_atomically
from reflectzoo.weights.read import sha256_of
from reflectzoo.weights.stored import NetworkRecord


class Converted(NamedTuple):
    """Summary of a written file.

    Attributes:
        model: name of the model.
        tensors: number of tensors.
        parameters: number of their elements.
        sha256: SHA-256 of the new file.
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
    """Convert a weights file to safetensors.

    The metadata hold ``format`` ("reflectzoo"), ``record`` (JSON: model, network, settings, training phase, the VGG
    that the network takes features from; see :mod:`reflectzoo.weights.stored`) and ``provenance`` (JSON: name and
    sha256 of the source, version, and the argument of that name).

    Args:
        source: a checkpoint or weights file; see :func:`reflectzoo.load_model`.
        target: the new file; must end in ``.safetensors``.
        model: name of the model; None recognises it from the file.
        overrides: overrides of the model's configuration.
        provenance: who trained the weights, on what data, under which licence.
        overwrite: replace an existing file.
        half: store 16-bit floating-point numbers, which halves the size; loading converts them back to 32 bits.

    Raises:
        UserError: as in :func:`reflectzoo.load_model`, if a number is too large for 16 bits, or if the file cannot be
            written.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{quoted_path(target)} must end in .safetensors.")
    if not source.is_file():
        raise UserError(f"There is no weights file {quoted_path(source)}: check the path.")
    if target.exists() and (not overwrite or target.samefile(source)):
        raise UserError(f"{quoted_path(target)} already exists: choose another name with -o.")
    if model is not None:
        method_of(model)
    loaded = open_file(source, model, overrides)
    made = {key: each for key, each in (provenance or {}).items() if each}
    made |= {"source": source.name, "source_sha256": sha256_of(source)}
    return write_network(loaded.net, loaded.stored, target, made, overwrite, half, quoted_path(source))


def write_network(
    net: nn.Module,
    stored: NetworkRecord,
    target: Path,
    provenance: Mapping[str, str],
    overwrite: bool = False,
    half: bool = False,
    source: str = "the network",
) -> Converted:
    """Write a network in the format of :func:`convert`.

    Args:
        net: the network.
        stored: its description.
        target: the new file; must end in ``.safetensors``.
        provenance: who trained the weights, on what data, under which licence.
        overwrite: replace an existing file.
        half: see :func:`convert`.
        source: name of the weights in error messages.

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
