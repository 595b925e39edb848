"""Suggestions for misspelt words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known words most similar to a misspelt one, best first.

    Args:
        word: misspelt.
        known: correct words.
        limit: largest number of words to return.

    Returns:
        Similar words; if there are none, known dotted keys with the same last part.
    """
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, known, n=limit, cutoff=0.6)
    return close or [each for each in known if each.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]][:limit]


def did_you_mean(close: list[str]) -> str:
    """End of an error message: a question that suggests ``close``, or a full stop if it is empty."""
    return f"; did you mean {' or '.join(close)}?" if close else "."
