"""What the zoo says in passing: once, by the first of several processes, and without importing the trainer."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_LOGGER = logging.getLogger("reflectzoo")
#: What launchers call the number of a process.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def is_first_process() -> bool:
    """Whether this is the only process, or the first of several that train together."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def inform(text: str) -> None:
    """Log a line, on stderr unless the program that uses the zoo has set up logging of its own."""
    if not is_first_process():
        return
    if not _LOGGER.hasHandlers():
        # Nothing is set up for later: whoever sets up logging then, as Hydra does, is to hear of everything.
        sys.stderr.write(f"{text}\n")
        return
    if _LOGGER.level == logging.NOTSET:
        _LOGGER.setLevel(logging.INFO)
    _LOGGER.info(text)


def warn(text: str, stacklevel: int = 2) -> None:
    """Warn, as from the line that called the function that calls this one.

    Args:
        text: one or two sentences.
        stacklevel: as for :func:`warnings.warn`, counted from the caller.
    """
    if is_first_process():
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
