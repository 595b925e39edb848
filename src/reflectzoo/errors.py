"""Exceptions whose message is one sentence for the user."""

from __future__ import annotations

import errno
import re
from pathlib import Path

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
"""Reasons why a file cannot be written, by ``errno``."""


class UserError(Exception):
    """A user's mistake: an invalid path, override, file or checkpoint.

    The message is one sentence: what is wrong, where, and what to do. The command line prints it without a traceback,
    and exits with status 2 (see :mod:`reflectzoo.cli`).
    """


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that a setting has one of its possible values.

    Raises:
        UserError: if it does not, with the name of the setting and the possible values.
    """
    if value not in choices:
        raise UserError(f"{name} is '{value}', but must be one of: {', '.join(choices)}.")


class TrainingError(Exception):
    """Training cannot continue (a loss became NaN, a disk is full). Like :class:`UserError`, but with status 1."""


class NotFinite(TrainingError):
    """A loss or a weight became infinite or NaN."""


class LostProcess(TrainingError):
    """Another process of the run died: a data worker, or another rank."""


class LostPeer(LostProcess):
    """Another rank died, as inferred from a lost connection.

    Attributes:
        folder: folder of the run, in which the processes of a node settle which of them reports it; None if unknown.
    """

    folder: Path | None = None


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message states what is saved. The command line exits with status 130."""


class Preempted(Interrupted):
    """SLURM announced that it will take the node away (SIGUSR1); everything is saved."""


_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|cannot allocate", re.IGNORECASE)


def memory_ran_out(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy or PyTorch (on any device) means that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None


def no_compiler(error: BaseException) -> UserError | None:
    """Translate what ``torch.compile`` raises on a computer without a C++ compiler; None for anything else."""
    if not isinstance(error, RuntimeError) or "No working C++ compiler" not in str(error):
        return None
    return UserError(
        "torch.compile needs a C++ compiler, and found none: install one, such as g++, or set CXX to its command, or "
        "train without compiling."
    )


WORKER_DIED = (
    "A process that reads photographs was killed, most likely because memory ran out: use fewer of them with "
    "data.num_workers=1, or none with 0."
)
_PEER = re.compile(
    r"(connection|socket).{0,40}(closed|reset|refused|broken)|by peer|nccl|gloo|processgroup|broken pipe", re.IGNORECASE
)


def lost_process_error(text: str, processes: int) -> LostProcess | None:
    """Convert the text of a PyTorch exception to an error about a lost process; None if it is about something else.

    Args:
        text: message of the exception.
        processes: number of ranks.
    """
    if "DataLoader worker" in text:
        return LostProcess(WORKER_DIED)
    if processes > 1 and _PEER.search(text):
        return LostPeer(f"One of the {processes} processes died, most likely because memory ran out.")
    return None
