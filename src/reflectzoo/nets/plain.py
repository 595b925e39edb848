"""A switch that disables computational shortcuts, so that networks compute step by step as the authors' programs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from reflectzoo.nets.winograd import direct_convolutions

_plain: ContextVar[bool] = ContextVar("plain_networks", default=False)


@contextmanager
def plain_form() -> Iterator[None]:
    """Within this block networks compute exactly as written in the published programs, without shortcuts."""
    token = _plain.set(True)
    try:
        with direct_convolutions():
            yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether the code is running within :func:`plain_form`."""
    return _plain.get()


def must_not_overwrite() -> bool:
    """Whether intermediate results must not be overwritten: a gradient is recorded, or :func:`plain_form` is active."""
    return torch.is_grad_enabled() or _plain.get()
