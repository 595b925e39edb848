"""Reading the files of another program, which calls the layers ``body.0``, ``body.2`` and ``body.4``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reflectzoo.errors import UserError

_NAMES = {"body.0": "first", "body.2": "second", "body.4": "last"}


def remap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network of a file under our names."""
    if "body.0.weight" not in checkpoint and "first.weight" not in checkpoint:
        raise UserError("This checkpoint is no Veil: give a file that has 'body.0.weight'.")
    named = {}
    for key, value in checkpoint.items():
        stem, _, leaf = key.rpartition(".")
        named[f"{_NAMES.get(stem, stem)}.{leaf}"] = value
    return named


def recognise(checkpoint: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The model and its settings that a file fits."""
    if "body.0.weight" not in checkpoint:
        return None
    return "veil", [f"model.net.channels={len(checkpoint['body.0.weight'])}"]
