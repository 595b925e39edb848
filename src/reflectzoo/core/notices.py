"""Notices and warnings for users: emitted by the first of several processes only, without importing Lightning."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_LOGGER = logging.getLogger("reflectzoo")
#: Environment variables in which launchers pass the rank of a process.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def is_first_process() -> bool:
    """Whether this is the only process, or rank 0 of a distributed training."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def inform(text: str) -> None:
    """Log a line at level INFO, or write it to stderr if no logging is configured."""
    if not is_first_process():
        return
    if not _LOGGER.hasHandlers():
        # Do not add a handler here: if logging is configured later, as Hydra does, every message must reach it.
        sys.stderr.write(f"{text}\n")
        return
    if _LOGGER.level == logging.NOTSET:
        _LOGGER.setLevel(logging.INFO)
    _LOGGER.info(text)


def warn(text: str, stacklevel: int = 2) -> None:
    """Issue a ``UserWarning``, by default attributed to the caller of the function that calls this one.

    Args:
        text: one or two sentences.
        stacklevel: as for :func:`warnings.warn`, counted from the function that calls this one.
    """
    if is_first_process():
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
