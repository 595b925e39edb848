"""Atomic file writing, and folders that belong to a single run."""

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
def atomic_file(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file atomically.

    The data is written to a temporary file in the same folder, hence on the same file system, and synced to disk
    before the temporary file replaces the target. An existing target stays intact until then.

    Args:
        path: target file; missing parent folders are created.
        keep: path to which the previous file is renamed; None discards it.

    Yields:
        The file, open for writing bytes.

    Raises:
        OSError: naming ``path``, with the system's reason; the temporary file is removed.
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
    """Write a text atomically, in UTF-8; see :func:`atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


def _keep(path: Path, keep: Path, spare: Path) -> None:
    """Keep a file under a second name, by a hard link where possible, so that ``path`` never ceases to exist."""
    link = spare.with_name(spare.name + ".link" + _PART)
    try:
        os.link(path, link)
    except OSError:  # the file system does not support hard links
        os.replace(path, keep)
        return
    try:
        os.replace(link, keep)
    finally:
        link.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename within it survives a crash; does nothing where folders cannot be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_parts(folder: Path) -> None:
    """Remove the temporary files of killed writers. Call only while holding the folder (:func:`lock_folder`)."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def make_unique_folder(folder: Path) -> Path:
    """Create a new folder: ``folder``, or the first of ``folder-2``, ``folder-3``, ... that does not exist.

    Safe against races: ``mkdir`` succeeds for one process only, so that concurrent callers get different folders.

    Raises:
        OSError: if the folder cannot be created.
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
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder for this process, until the block ends or the process exits.

    The lock is advisory. Where file locks are not supported (Windows, some network file systems), nothing is locked.

    Args:
        folder: created if it is missing.
        what: activity that writes there, for the message and the lock's name: ``training``, ``evaluation``.

    Raises:
        UserError: if another process holds the lock.
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
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system does not support locks
        return True
    return True
