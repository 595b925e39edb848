"""A switch for shortcuts: within :func:`plain_form` networks compute what their authors' programs write down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from reflectzoo.nets.winograd import direct_convolutions

_plain: ContextVar[bool] = ContextVar("plain_networks", default=False)


@contextmanager
def plain_form() -> Iterator[None]:
    """Within this block everything is computed as the published program writes it down, shortcuts left out."""
    token = _plain.set(True)
    try:
        with direct_convolutions():
            yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether the code runs within :func:`plain_form`."""
    return _plain.get()


def untouched() -> bool:
    """Whether intermediate results must stay as they are: for the gradient, or because the plain form is asked for."""
    return torch.is_grad_enabled() or _plain.get()
