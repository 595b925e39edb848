"""Layout, size and origin of published data sets, for error messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflectzoo.data.images import SUFFIXES, find_images
from reflectzoo.errors import UserError


@dataclass(frozen=True)
class PublishedData:
    """One published data set.

    Attributes:
        choice: its name in the configuration, as in ``data=zhang``.
        layout: expected files and folders; follows the word "expected" in messages.
        origin: size, terms, and the paper or page from which it is available.
    """

    choice: str
    layout: str
    origin: str

    @property
    def expected(self) -> str:
        """The expected layout and its origin, as the end of a sentence without full stop."""
        return f"expected {self.layout} ({self.origin})"

    def folder(self, path: str | os.PathLike[str] | None, key: str = "data.root") -> Path:
        """Check a folder given by the user.

        Args:
            path: the folder.
            key: the setting that it comes from, for messages.

        Raises:
            UserError: if none was given, or it is not a readable folder.
        """
        if path is None or str(path) in ("", "???"):
            raise UserError(f"data={self.choice} needs {key}=FOLDER: {self.expected}.")
        folder = Path(path).expanduser()
        if not os.path.lexists(folder):
            raise UserError(f"{key}={path} does not exist: {self.expected}.")
        if not folder.is_dir():
            kind = "a dangling link" if folder.is_symlink() and not folder.exists() else "a file"
            raise UserError(f"{key}={path} is {kind}: {self.expected}.")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(f"{key}={path} cannot be read (permission denied): {self.expected}.")
        return folder

    def photographs(
        self, folder: Path, key: str = "data.root", unopened: Callable[[str, str], None] | None = None
    ) -> list[Path]:
        """All pictures below a folder; see :func:`~reflectzoo.data.images.find_images`.

        Raises:
            UserError: if there are none, or a folder cannot be opened.
        """
        photos = find_images(folder, recursive=True, unopened=unopened)
        if not photos:
            raise self.not_found(folder, key)
        return photos

    def not_found(self, folder: Path, key: str = "data.root") -> UserError:
        """The error for a folder without the expected files, with a summary of its content."""
        return UserError(f"{key}: '{folder}' holds {folder_in_words(folder)}: {self.expected}.")


def folder_in_words(folder: Path, most: int = 4) -> str:
    """Describe the content of a folder, listing at most ``most`` names."""
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    if not names:
        return "nothing"
    pictures = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return f"{len(names)} entries ({shown}), {pictures or 'none'} of them pictures"


def first_folder(root: Path, names: Iterable[str]) -> Path | None:
    """The first of several folders below ``root`` that exists, ignoring case; None if none does."""
    for name in names:
        place: Path | None = root
        for part in Path(name).parts:
            place = _child(place, part) if place is not None else None
        if place is not None:
            return place
    return None


def _child(folder: Path, name: str) -> Path | None:
    if name == ".":
        return folder
    if (folder / name).is_dir():
        return folder / name
    try:
        matches = sorted(each for each in folder.iterdir() if each.name.lower() == name.lower() and each.is_dir())
    except OSError:
        return None
    return matches[0] if matches else None


def names_of(value: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)
