"""Safe file access: refuse what is not a regular file, and write atomically."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from reflectzoo.errors import DISK_REASONS, UserError
from reflectzoo.photo.model import UnreadableImage

#: Larger files are not photographs; reading one would exhaust the memory before it could be refused.
MAX_BYTES = 2**31
#: Longest file name in bytes, on nearly all file systems.
_LONGEST = 255

_REASONS = DISK_REASONS | {
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "there is no such folder",
    errno.ELOOP: "its links lead in a circle",
}


def quoted_path(path: str | os.PathLike[str]) -> str:
    """Quote a path for the terminal, with control characters escaped."""
    text = os.fspath(path)
    return "'" + "".join(each if each.isprintable() else repr(each)[1:-1] for each in text) + "'"


def result_name(stem: str, tail: str) -> str:
    """The file name of a result; a name that is too long gets a shorter stem and six digits of the stem's hash.

    Example:
        >>> result_name("photo", ".transmission.png")
        'photo.transmission.png'
        >>> len(result_name("x" * 245, ".transmission.png"))
        255
    """
    if len(os.fsencode(stem + tail)) <= _LONGEST:
        return stem + tail
    tail = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:6]}{tail}"
    while len(os.fsencode(stem + tail)) > _LONGEST:
        stem = stem[:-1]
    return stem + tail


def os_error_reason(error: OSError) -> str:
    """The reason for an operating system error, in words."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading in binary mode; reading a pipe or a device might never end.

    Raises:
        UnreadableImage: if it is not a regular file, or cannot be opened.
    """
    try:
        # Non-blocking: opening a pipe would otherwise wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UnreadableImage(f"{quoted_path(path)} {_why_not_opened(Path(path), error)}.") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "is a folder, not a picture" if stat.S_ISDIR(mode) else "is not a regular file"
        raise UnreadableImage(f"{quoted_path(path)} {kind}.")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """Read the whole content of a regular file.

    Raises:
        UnreadableImage: if it is missing, not a regular file, unreadable, larger than :data:`MAX_BYTES`, or changed
            while it was read.
    """
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > MAX_BYTES:
            raise UnreadableImage(f"{quoted_path(path)} has {before.st_size / 2**30:.1f} GiB, which no photograph has.")
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnreadableImage(f"{quoted_path(path)} cannot be read ({os_error_reason(error)}).") from None
        after = os.fstat(file.fileno())
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UnreadableImage(f"{quoted_path(path)} changed while it was read: try again when it is complete.")
    return data


def write_atomically(path: Path, data: bytes, overwrite: bool = False) -> None:
    """Write a file atomically: to a temporary name in the same folder, then moved into place.

    Args:
        path: the file; missing parent folders are created.
        data: its content.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: if the file exists without ``overwrite``, or cannot be written; no partial file is left behind.
    """
    spare: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not overwrite and os.path.lexists(path):
            raise UserError(_exists(path))
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Not derived from the file's own name, which may already have the maximum length.
        spare = path.with_name(f".reflectzoo-{os.getpid()}-{secrets.token_hex(6)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(spare, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(spare, path)
        else:
            _move_to_free_name(spare, path)
    except OSError as error:
        raise UserError(
            f"{quoted_path(path)} cannot be written: {os_error_reason(error)}; no file was left behind, so choose "
            "another place."
        ) from error
    finally:
        if spare is not None:
            with contextlib.suppress(OSError):
                spare.unlink()


def _move_to_free_name(spare: Path, path: Path) -> None:
    """Move a file into place by a hard link: unlike a rename, it never replaces a file created in the meantime."""
    try:
        os.link(spare, path)
    except FileExistsError:
        raise UserError(_exists(path)) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise UserError(_exists(path)) from None
        os.replace(spare, path)


def _exists(path: Path) -> str:
    return f"{quoted_path(path)} already exists: --overwrite (overwrite=True) replaces it."


def _why_not_opened(path: Path, error: OSError) -> str:
    if path.is_symlink() and error.errno == errno.ENOENT:
        return f"is a link to {quoted_path(os.readlink(path))}, which does not exist"
    if error.errno == errno.ENOENT:
        return "does not exist"
    return f"cannot be opened ({os_error_reason(error)})"
