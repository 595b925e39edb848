"""Losses that one method alone has are tested beside it, on the batches of the others."""

from tests.losses.conftest import batch_of

__all__ = ["batch_of"]
