"""Folders of photographs, and their split into training, validation and test."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reflectzoo.core.annotations import Count, Fraction
from reflectzoo.data.datasets.photos import FixedPair, OnError, fixed_pairs, readable
from reflectzoo.data.images import SUFFIXES, find_images
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.seeding import name_seed
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

_log = logging.getLogger(__name__)

_EXPECTED = (
    "expected a folder of photographs or a VOCdevkit (PASCAL VOC 2012, about 2 GB, photographs under Flickr's terms of "
    "use, from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/)"
)


class PhotoFolder(ReflectionDataModule):
    """Base class of data modules that blend the photographs of a folder; :class:`VOCBlending` describes the split.

    Args:
        synthesis: makes a mixture of two photographs.
        root: folder of the photographs.
        list: a text file with the names of the photographs to use.
        val_root: a folder of photographs for validation and test.
        samples_per_epoch: length of an epoch; None for half the number of photographs.
        val_share: share of the photographs held out for validation, if there is no folder for it.
        test_share: likewise for the test.
        max_eval_pairs: maximum number of pairs in validation, and in the test.
        on_error: ``skip`` replaces an unreadable photograph with a warning; ``raise`` stops.
        kwargs: see :class:`ReflectionDataModule`.
    """

    def __init__(
        self,
        synthesis: Synthesis,
        root: str | os.PathLike[str] | None = None,
        list: str | os.PathLike[str] | None = None,
        val_root: str | os.PathLike[str] | None = None,
        samples_per_epoch: Count | None = None,
        val_share: Fraction = 0.02,
        test_share: Fraction = 0.02,
        max_eval_pairs: Count = 50,
        on_error: OnError = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, **kwargs)
        self.shares = check_shares(val_share, test_share)
        self.root = root
        self.list = list
        self.val_root = val_root
        self.samples_per_epoch = samples_per_epoch
        self.max_eval_pairs = max_eval_pairs
        self.on_error: OnError = on_error
        self._splits: Splits | None = None

    @property
    def splits(self) -> Splits:
        """The photographs for training, validation and test, found lazily.

        Raises:
            UserError: if there are none, or too few.
        """
        if self._splits is None:
            self._splits = find_splits(
                self.root, self.list, self.val_root, self.shares, 2 * self.max_eval_pairs, self.on_error
            )
        return self._splits

    def held_out_pairs(self, split: str) -> Sequence[FixedPair]:
        """Pairs of the readable photographs of ``val`` or ``test``.

        Raises:
            UserError: if fewer than two can be read.
        """
        paths, notices = readable(self.splits[split], self.on_error)
        for notice in notices:
            self.notice(notice)
        if len(paths) < 2:
            raise UserError(
                f"Only {len(paths)} of the {len(self.splits[split])} photographs held out for the {split} split can be "
                "read, but a mixture needs two: add photographs or set data.val_root."
            )
        return fixed_pairs(paths)


def check_shares(val_share: float, test_share: float) -> tuple[float, float]:
    """Check that both shares leave photographs for training, and return them.

    Raises:
        UserError: if they sum to 1 or more.
    """
    if val_share + test_share >= 1:
        raise UserError(
            f"data.val_share and data.test_share must leave photographs for training, got {val_share}, {test_share}."
        )
    return val_share, test_share


Splits = Mapping[str, Sequence[Path]]


def find_splits(
    root: str | os.PathLike[str] | None,
    names: str | os.PathLike[str] | None = None,
    val_root: str | os.PathLike[str] | None = None,
    shares: tuple[float, float] = (0.02, 0.02),
    most: int = 100,
    on_error: OnError = "raise",
) -> Splits:
    """Find the photographs and split them; training photographs are in no other split.

    Args:
        root: setting ``data.root``.
        names: setting ``data.list``.
        val_root: setting ``data.val_root``.
        shares: shares for validation and test, if there are no folders for them.
        most: maximum number of photographs in each of the two.
        on_error: ``skip`` skips folders that cannot be opened, with a warning; ``raise`` stops.

    Returns:
        ``train`` (sorted), ``val`` and ``test`` (ordered by a hash of the name). A validation folder with fewer than
        four photographs serves as ``val`` and as ``test``, with a warning.

    Raises:
        UserError: if a folder is missing or there are too few photographs.
    """
    if root is None or str(root) in ("", "???"):
        raise UserError(f"data=voc needs data.root=FOLDER: {_EXPECTED}.")
    top = _folder(root, "data.root")
    held_out = _folder(val_root, "data.val_root") if val_root else None
    tested: Path | None = None
    if names is None and os.path.isdir(top / "train") and (os.path.isdir(top / "val") or held_out is not None):
        if held_out is None:
            held_out = top / "val"
            tested = top / "test" if os.path.isdir(top / "test") else None
        top = top / "train"
    top = jpeg_images(top)

    photos = _named(_photographs(top, "data.root", on_error), _list_file(names, Path(root)), top) if names else None
    if photos is None:
        photos = _photographs(top, "data.root", on_error)
    if held_out is None:
        return _hold_out(photos, top, shares, most)

    others = _shuffled(_photographs(jpeg_images(held_out), "data.val_root", on_error), held_out)
    if tested is not None:
        val, test = others, _shuffled(_photographs(tested, "data.root", on_error), tested)
    elif len(others) >= 4:
        val, test = others[0::2], others[1::2]
    else:
        _log.warning("'%s' holds %d photographs, too few for a separate test split.", held_out, len(others))
        val = test = others
    val, test = val[:most], test[:most]
    # A held-out folder may be inside the training folder, or linked into it.
    reserved = {os.path.realpath(path) for path in (*others, *val, *test)}
    train = [path for path in photos if os.path.realpath(path) not in reserved]
    _enough(len(train), 2, top, "training")
    _enough(len(val), 2, held_out, "validation")
    _enough(len(test), 2, tested or held_out, "the test")
    return {"train": train, "val": val, "test": test}


def _hold_out(photos: Sequence[Path], top: Path, shares: tuple[float, float], most: int) -> Splits:
    """Split by the hashes of the names, independent of the seed and the folder's location."""
    _enough(len(photos), 6, top, "training, validation and test")
    order = _shuffled(photos, top)
    wanted = [min(most, max(2, math.floor(share * len(order)))) for share in shares]
    # At least two photographs remain for each purpose, however large the shares.
    val_count = min(wanted[0], len(order) - 4)
    test_count = min(wanted[1], len(order) - 2 - val_count)
    val, test = order[:val_count], order[val_count : val_count + test_count]
    return {"train": sorted(order[val_count + test_count :]), "val": val, "test": test}


def _shuffled(photos: Sequence[Path], top: Path) -> list[Path]:
    return sorted(photos, key=lambda path: (name_seed(path.relative_to(top).as_posix()), path))


def _enough(count: int, least: int, where: Path, purpose: str) -> None:
    if count < least:
        raise UserError(f"'{where}' gives {count} photographs for {purpose}, but at least {least} are needed.")


def _folder(path: str | os.PathLike[str], key: str) -> Path:
    folder = Path(path).expanduser()
    if not os.path.lexists(folder):
        raise UserError(f"{key}={path} does not exist: {_EXPECTED}.")
    if not os.path.isdir(folder):
        raise UserError(f"{key}={path} is {'a dangling link' if folder.is_symlink() else 'a file'}: {_EXPECTED}.")
    return folder


def jpeg_images(folder: Path) -> Path:
    """The folder of photographs of a VOCdevkit, given any of its folders; any other folder is returned unchanged."""
    for pattern in ("JPEGImages", "VOC*/JPEGImages", "VOCdevkit/VOC*/JPEGImages"):
        found = sorted(path for path in folder.glob(pattern) if os.path.isdir(path))
        if found:
            if len(found) > 1:
                _log.info("Of %d VOC years, %s is used.", len(found), found[-1])
            return found[-1]
    return folder


def _photographs(folder: Path, key: str, on_error: OnError) -> list[Path]:
    unopened = (lambda _, sentence: _log.warning("%s", sentence)) if on_error == "skip" else None
    photos = find_images(folder, recursive=True, unopened=unopened)
    if not photos:
        entries = sum(1 for _ in folder.iterdir())
        found = f"{entries} entries, but no picture ({', '.join(sorted(SUFFIXES))})" if entries else "nothing"
        raise UserError(f"{key}: '{folder}' holds {found}: {_EXPECTED}.")
    return photos


def _list_file(names: str | os.PathLike[str], root: Path) -> Path:
    for path in (Path(names).expanduser(), root.expanduser() / names):
        if path.is_file():
            return path
    raise UserError(f"data.list={names} is not a file: expected a text file with one photograph name per line.")


def _named(photos: Sequence[Path], listing: Path, top: Path) -> list[Path]:
    """The photographs named in a list file, sorted.

    Raises:
        UserError: if none of the names has a file, or the list is empty.
    """
    by_name: dict[str, Path] = {}
    for path in reversed(photos):
        by_name[_bare(path.name)] = path
        by_name[path.name] = path
    lines = listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    wanted = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    found: dict[Path, None] = {}
    missing: list[str] = []
    for line in wanted:
        # In VOC's own lists, the name may be followed by a class label, so that the first word is tried as well.
        names = [Path(text.replace("\\", "/")).name for text in (line, line.split()[0])]
        match = next((by_name[key] for name in names for key in (name, _bare(name)) if key in by_name), None)
        if match is None:
            missing.append(line)
        else:
            found[match] = None
    if not found:
        raise UserError(
            f"None of the {len(wanted)} names in data.list={listing} has a photograph under '{top}'"
            + (f" (the first is '{wanted[0]}')." if wanted else ".")
        )
    if missing:
        _log.warning(
            "%d of the %d names in %s have no photograph under '%s' (the first is '%s'); continuing with the other %d.",
            len(missing),
            len(wanted),
            listing,
            top,
            missing[0],
            len(found),
        )
    return sorted(found)


def _bare(name: str) -> str:
    """A file name without its suffix, if that is a picture's."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name
