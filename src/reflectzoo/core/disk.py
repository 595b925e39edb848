"""Writing that leaves whole files or none, and folders that belong to one run."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from reflectzoo.errors import UserError

_PART = ".part"


@contextlib.contextmanager
def whole_file(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    What is written lies beside the target, hence on its file system, under a name of its own; it is on the disk before
    it gets the target's name, and the target that was there before stays until then.

    Args:
        path: of the file; folders above it are made.
        keep: what the earlier file is called afterwards; None gives it up.

    Yields:
        The file, open for writing bytes.

    Raises:
        OSError: naming ``path``, with the system's reason; nothing is left behind then.
    """
    spare = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with spare.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                _keep(path, keep, spare)
            os.replace(spare, path)
            _sync_folder(path.parent)
        finally:
            spare.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """:func:`whole_file` for a text in UTF-8."""
    with whole_file(path) as file:
        file.write(text.encode())


def _keep(path: Path, keep: Path, spare: Path) -> None:
    """Give a file a second name. With a link, so that there is no moment at which it has none."""
    link = spare.with_name(spare.name + ".link" + _PART)
    try:
        os.link(path, link)
    except OSError:  # a file system without links
        os.replace(path, keep)
        return
    try:
        os.replace(link, keep)
    finally:
        link.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Names are on the disk when their folder is; not every system lets folders be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left behind. Only for whoever holds the folder (:func:`hold`)."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def claim(folder: Path) -> Path:
    """Make a folder that nobody else has: ``folder``, or the first free one of ``folder-2``, ``folder-3``, ...

    Of two processes that ask at once each gets its own, since making a folder succeeds for one of them only.

    Raises:
        OSError: if it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    name, number = folder.name, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")
        else:
            return folder


@contextlib.contextmanager
def hold(folder: Path, what: str) -> Iterator[None]:
    """Keep a folder to this process, until the block ends or the process dies.

    Args:
        folder: is made if need be.
        what: which writes there, for the message: ``training``, ``evaluation``.

    Raises:
        UserError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{what}.lock").open("a") as file:
        if not _locked(file):
            raise UserError(
                f"Another {what} is writing to {folder}: wait for it, or choose another folder (without "
                "hydra.run.dir, each run gets its own)."
            )
        yield


def _locked(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing can be told
        return True
    return True
