"""Reproducible weights: each entry of a state dict is drawn from a generator seeded with its name (the rule)."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reflectzoo.parity.fixture import ParityError

Record = Mapping[str, Any]


def rule_array(name: str, shape: Sequence[int], kind: str, gain: float | None = None) -> npt.NDArray[Any]:
    """Generate one entry of a state dict.

    Args:
        name: seed of the generator (crc32 of its UTF-8 bytes).
        shape: shape of the entry; at least two dimensions for the first three kinds.
        kind: ``conv``, ``linear`` or ``other`` (normal with standard deviation gain / sqrt(fan_in)), ``norm_weight``
            (1 + 0.1 n, with n standard normal), ``bias`` or ``running_mean`` (0.1 n), ``running_var`` (1 + 0.1 |n|),
            ``prelu`` (0.25) or ``num_batches`` (0).
        gain: for the first three kinds.

    Returns:
        float32; int64 for ``num_batches``.

    Raises:
        ParityError: for an unknown kind, or a missing gain or dimension.
    """
    shape = tuple(shape)
    if kind == "num_batches":
        return np.zeros(shape, dtype=np.int64)
    if kind == "prelu":
        return np.full(shape, 0.25, dtype=np.float32)
    normal = np.random.default_rng(zlib.crc32(name.encode("utf-8"))).standard_normal(shape)
    if kind in ("conv", "linear", "other"):
        if gain is None or len(shape) < 2:
            raise ParityError(f"weight '{name}' of kind {kind} needs a gain and two dimensions")
        value = normal * (gain / math.sqrt(math.prod(shape[1:])))
    elif kind == "norm_weight":
        value = 1 + 0.1 * normal
    elif kind in ("bias", "running_mean"):
        value = 0.1 * normal
    elif kind == "running_var":
        value = 1 + 0.1 * np.abs(normal)
    else:
        raise ParityError(f"weight '{name}' is of unknown kind '{kind}'")
    return np.asarray(value).astype(np.float32)


def build_state_dict(records: Sequence[Record], sha256: str | None = None) -> dict[str, Tensor]:
    """Generate the state dict of a recording, in the recorded order.

    Args:
        records: one per entry, with ``key``, ``shape``, ``kind`` and where applicable ``gain``, ``seed_key``,
            ``alias_of`` and ``crc32``.
        sha256: hash over all tensors in sorted order of their keys; None to skip the check.

    Returns:
        Key -> tensor; tied entries share one tensor.

    Raises:
        ParityError: if a checksum differs (numpy's generator has changed since the recording, or the records were
            modified), a record is incomplete, or a key occurs twice.
    """
    state: dict[str, Tensor] = {}
    by_key = {str(record["key"]): record for record in records}
    if len(by_key) != len(records):
        raise ParityError("the recorded state dict lists a key twice")

    def entry(key: str) -> Tensor:
        if key in state:
            return state[key]
        try:
            record = by_key[key]
            alias = record.get("alias_of")
            if alias is not None:
                state[key] = entry(alias)
            else:
                name = str(record.get("seed_key", key))
                state[key] = torch.from_numpy(rule_array(name, record["shape"], record["kind"], record.get("gain")))
        except KeyError as error:
            raise ParityError(f"the recorded state dict lacks {error} (at '{key}')") from None
        found = f"{zlib.crc32(_bytes(state[key])):08x}"
        if record.get("crc32", found) != found:
            raise ParityError(f"weight '{key}' has crc32 {found}, but {record['crc32']} is recorded")
        return state[key]

    ordered = {key: entry(key) for key in by_key}
    if sha256 is not None and (found := state_dict_sha256(ordered)) != sha256:
        raise ParityError(f"the weights have sha256 {found[:8]}..., but {sha256[:8]}... is recorded")
    return ordered


def state_dict_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the bytes of all tensors, in sorted order of their keys."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(_bytes(state[key]))
    return digest.hexdigest()


def rule_state_dict(module: nn.Module, gain: float, exceptions: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """Generate the rule's weights for a module, if there is no list of records.

    Args:
        module: provides keys and shapes; kinds are derived from its layers.
        gain: gain of all weights with two or more dimensions.
        exceptions: key -> gain that differs.

    Returns:
        Key -> tensor, in the order of ``module.state_dict()``.

    Raises:
        ParityError: for a parameter whose kind cannot be derived from its layer, or an exception that is not a key.
    """
    gains = dict(exceptions or {})
    state: dict[str, Tensor] = {}
    for key, tensor in module.state_dict().items():
        path, _, leaf = key.rpartition(".")
        kind = _kind(module.get_submodule(path), leaf, tensor)
        if kind is None:
            raise ParityError(f"the rule does not say what '{key}' of shape {tuple(tensor.shape)} is")
        state[key] = torch.from_numpy(rule_array(key, tensor.shape, kind, gains.pop(key, gain)))
    if gains:
        raise ParityError(f"no such weights: {', '.join(gains)}")
    return state


def _kind(layer: nn.Module, leaf: str, tensor: Tensor) -> str | None:
    if leaf in ("bias", "running_mean", "running_var"):
        return leaf
    if leaf == "num_batches_tracked":
        return "num_batches"
    if isinstance(layer, nn.PReLU):
        return "prelu"
    if tensor.ndim >= 2:
        return "conv"
    return "norm_weight" if leaf == "weight" else None


def _bytes(tensor: Tensor) -> bytes:
    array = tensor.numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
