"""Reading and writing that leaves no half files behind, whatever happens in between."""

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

#: Larger files are no photographs; reading one would fill the memory before anything could say so.
MAX_BYTES = 2**31
#: Bytes of a name, on nearly all file systems.
_LONGEST = 255

_REASONS = DISK_REASONS | {
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "there is no such folder",
    errno.ELOOP: "its links lead in a circle",
}


def shown(path: str | os.PathLike[str]) -> str:
    """A path as it may stand in a terminal: quoted, and nothing in it moves the cursor."""
    text = os.fspath(path)
    return "'" + "".join(each if each.isprintable() else repr(each)[1:-1] for each in text) + "'"


def result_name(stem: str, tail: str) -> str:
    """The name of a result; where it is too long, the stem is shortened and told from others by a few digits.

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


def why(error: OSError) -> str:
    """What the system says, in words."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes; anything else would perhaps never end.

    Raises:
        UnreadableImage: if it is none, or cannot be opened.
    """
    try:
        # Without waiting: a pipe would keep us until somebody writes into it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UnreadableImage(f"{shown(path)} {_why_not_opened(Path(path), error)}.") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "is a folder, not a picture" if stat.S_ISDIR(mode) else "is not a regular file"
        raise UnreadableImage(f"{shown(path)} {kind}.")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """The content of a regular file, read at once.

    Raises:
        UnreadableImage: if there is none, it is larger than :data:`MAX_BYTES`, or it changed while it was read.
    """
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > MAX_BYTES:
            raise UnreadableImage(f"{shown(path)} has {before.st_size / 2**30:.1f} GiB, which no photograph has.")
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnreadableImage(f"{shown(path)} cannot be read ({why(error)}).") from None
        after = os.fstat(file.fileno())
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UnreadableImage(f"{shown(path)} changed while it was read: try again when it is complete.")
    return data


def write_atomically(path: Path, data: bytes, overwrite: bool = False) -> None:
    """Write a file under another name in the same folder, then give it its own: complete, or not there.

    Args:
        path: of the file; folders above it are made.
        data: its content.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: if the file exists, or cannot be written; nothing is left behind then.
    """
    spare: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not overwrite and os.path.lexists(path):
            raise UserError(_exists(path))
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Not with the name itself, which may be as long as names can be.
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
            f"{shown(path)} cannot be written: {why(error)}; no file was left behind, so choose another place."
        ) from error
    finally:
        if spare is not None:
            with contextlib.suppress(OSError):
                spare.unlink()


def _move_to_free_name(spare: Path, path: Path) -> None:
    """Unlike a rename, a link never replaces what another process put there in the meantime."""
    try:
        os.link(spare, path)
    except FileExistsError:
        raise UserError(_exists(path)) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise UserError(_exists(path)) from None
        os.replace(spare, path)


def _exists(path: Path) -> str:
    return f"{shown(path)} already exists: --overwrite (overwrite=True) replaces it."


def _why_not_opened(path: Path, error: OSError) -> str:
    if path.is_symlink() and error.errno == errno.ENOENT:
        return f"is a link to {shown(os.readlink(path))}, which does not exist"
    if error.errno == errno.ENOENT:
        return "does not exist"
    return f"cannot be opened ({why(error)})"
