"""Assign files to sequences by patterns of their paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reflectzoo.data.datasets.photos import OnError
from reflectzoo.data.datasets.sequences import SequenceFiles
from reflectzoo.data.samples import Notice
from reflectzoo.errors import UserError


class PathPattern:
    """A pattern for paths, such as ``{sequence}/{frame}``.

    ``{sequence}`` matches any text, slashes included, ``{frame}`` and ``*`` match text within one name (``*`` also the
    empty text). Case is ignored, and paths are given without suffixes.

    Args:
        pattern: the pattern.

    Raises:
        UserError: if it does not contain ``{sequence}`` exactly once, or contains an unknown placeholder.

    Example:
        >>> PathPattern("{sequence}/I{frame}").match("day/003/I2")
        ('day/003', '2')
    """

    def __init__(self, pattern: str) -> None:
        parts = re.split(r"(\{\w*\}|\*)", pattern)
        known = {"{sequence}": "(?P<sequence>.+)", "{frame}": "(?P<frame>[^/]+)", "*": "[^/]*"}
        wrong = next((part for part in parts[1::2] if part not in known), None)
        if wrong is not None or parts.count("{sequence}") != 1 or parts.count("{frame}") > 1:
            raise UserError(
                f"The pattern '{pattern}' must contain {{sequence}} once and may contain {{frame}} once and *"
                + (f", but not {wrong}." if wrong else ".")
            )
        self._expression = re.compile("".join(known.get(part) or re.escape(part) for part in parts), re.IGNORECASE)

    def match(self, path: str) -> tuple[str, str] | None:
        """The sequence and frame of a path without suffix, the frame "" if not in the pattern; None without a match."""
        found = self._expression.fullmatch(path)
        return (found["sequence"], found.groupdict().get("frame", "")) if found else None


class Sorted(NamedTuple):
    """The sequences of a folder, and notices about those that were skipped."""

    sequences: list[SequenceFiles]
    notices: list[Notice]


def sort_sequences(
    paths: Sequence[Path], top: Path, frames: PathPattern, truth: Sequence[PathPattern], count: int, on_error: OnError
) -> Sorted:
    """Group files to sequences.

    Args:
        paths: all pictures below ``top``.
        top: the folder.
        frames: pattern of the frames, which are sorted by the numbers in their names.
        truth: patterns of the transmissions, tried in turn; a matching file is not a frame.
        count: required number of frames; if there are more, those around the centre are used.
        on_error: ``raise`` stops at the first incomplete sequence; ``skip`` skips it.

    Raises:
        UserError: for an incomplete sequence, if ``on_error`` is ``raise``.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    truths: dict[str, Path] = {}
    for path in paths:
        relative = path.relative_to(top).with_suffix("").as_posix()
        match = next((each for each in (pattern.match(relative) for pattern in truth) if each is not None), None)
        if match is not None:
            truths.setdefault(match[0], path)
            continue
        match = frames.match(relative)
        if match is not None:
            found.setdefault(match[0], []).append((match[1], path))
    sequences, notices = [], []
    for name, files in sorted(found.items()):
        files.sort(key=lambda each: natural(each[0]))
        if name in truths and len(files) >= count:
            first = (len(files) - count) // 2
            chosen = tuple(path for _, path in files[first : first + count])
            sequences.append(SequenceFiles(name, chosen, truths[name]))
            continue
        what = f"{len(files)} frames where {count} are needed" if name in truths else "no transmission of its centre"
        sentence = f"The sequence '{name}' in '{top}' has {what} and is skipped."
        if on_error == "raise":
            raise UserError(sentence)
        notices.append(Notice("missing", str(files[0][1]), sentence))
    return Sorted(sequences, notices)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts 2 before 10.

    Example:
        >>> sorted(["f10", "f9", "a"], key=natural)
        ['a', 'f9', 'f10']
    """
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)
