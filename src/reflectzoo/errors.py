"""Errors that are the user's to fix, told in one sentence."""

from __future__ import annotations

import errno
import re

DISK_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the allowed size",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
}
"""Why something cannot be written, by the system's number."""


class UserError(Exception):
    """A mistake in what the user gave: a path, an override, a file, a checkpoint.

    The message is one clear sentence that says what is wrong, where, and what to do. The command line
    prints it alone, without a traceback, and exits with status 2 (see :mod:`reflectzoo.cli`).
    """


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless a configured word is one of those that mean something.

    Raises:
        UserError: naming the option and the choices.
    """
    if value not in choices:
        raise UserError(f"{name} is '{value}', but must be one of: {', '.join(choices)}.")


class TrainingError(Exception):
    """Training cannot go on (a loss became NaN, a disk is full). Same manners as :class:`UserError`, status 1."""


class NotFinite(TrainingError):
    """A loss or a weight is infinite or no number any more."""


class LostProcess(TrainingError):
    """A process that this one works with died: a data worker, or another rank."""


class LostPeer(LostProcess):
    """Another rank died, as far as this one can tell, which only sees that it is gone."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message says what is saved. The command line exits with status 130."""


_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|cannot allocate", re.IGNORECASE)


def memory_ran_out(error: BaseException) -> bool:
    """Whether that is what an exception is about: Python's, NumPy's, or PyTorch's of any device."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None


WORKER_DIED = (
    "A process that reads photographs was killed, most likely because memory ran out: use fewer of them with "
    "data.num_workers=1, or none with 0."
)
_PEER = re.compile(
    r"(connection|socket).{0,40}(closed|reset|refused|broken)|by peer|nccl|gloo|processgroup|broken pipe", re.IGNORECASE
)


def who_died(text: str, processes: int) -> LostProcess | None:
    """What an exception of PyTorch's says of processes, in a sentence; None if it is about something else.

    Args:
        text: of the exception.
        processes: that work together.
    """
    if "DataLoader worker" in text:
        return LostProcess(WORKER_DIED)
    if processes > 1 and _PEER.search(text):
        return LostPeer(f"One of the {processes} processes died, most likely because memory ran out.")
    return None
