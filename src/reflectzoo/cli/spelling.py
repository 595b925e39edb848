"""Suggestions for misspelt words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known words most like a misspelt one."""
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, known, n=limit, cutoff=0.6)
    return close or [each for each in known if each.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]][:limit]


def did_you_mean(close: list[str]) -> str:
    """The end of a sentence about a misspelt word."""
    return f"; did you mean {' or '.join(close)}?" if close else "."
