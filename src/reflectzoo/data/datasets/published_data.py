"""What a published data set looks like on disk, how large it is and where its authors offer it."""

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
        choice: the configuration's name for it, as in ``data=zhang``.
        layout: what is expected on disk, to follow the words "expected ...".
        origin: size, terms and the page or paper where the authors offer it.
    """

    choice: str
    layout: str
    origin: str

    @property
    def expected(self) -> str:
        """What was expected and where to get it, the end of a sentence without its full stop."""
        return f"expected {self.layout} ({self.origin})"

    def folder(self, path: str | os.PathLike[str] | None, key: str = "data.root") -> Path:
        """A folder that the user named.

        Raises:
            UserError: if none was named, or it is no folder that can be opened.
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
            UserError: if there is none.
        """
        photos = find_images(folder, recursive=True, unopened=unopened)
        if not photos:
            raise self.not_found(folder, key)
        return photos

    def not_found(self, folder: Path, key: str = "data.root") -> UserError:
        """The sentence that says what is in a folder instead of what was expected."""
        return UserError(f"{key}: '{folder}' holds {folder_in_words(folder)}: {self.expected}.")


def folder_in_words(folder: Path, most: int = 4) -> str:
    """In words, what a folder holds."""
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    if not names:
        return "nothing"
    pictures = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return f"{len(names)} entries ({shown}), {pictures or 'none'} of them pictures"


def first_folder(root: Path, names: Iterable[str]) -> Path | None:
    """The first of some folders below ``root`` that exists, upper and lower case alike."""
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
