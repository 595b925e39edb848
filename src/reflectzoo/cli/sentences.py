"""Conversion of exceptions to a one-sentence error message and an exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reflectzoo.cli.overrides import unfitting, unreadable
from reflectzoo.cli.spelling import did_you_mean, nearest
from reflectzoo.errors import DISK_REASONS, Interrupted, TrainingError, UserError, memory_ran_out


def sentence(
    error: BaseException, words: Sequence[str] | None = None, config_name: str = "train"
) -> tuple[str, int] | None:
    """Error message and exit status for an exception; None for a bug or a ``SystemExit``.

    Args:
        error: the exception; its causes are examined, too.
        words: overrides; None for those of the command line.
        config_name: the configuration to which the overrides apply.

    Returns:
        One sentence, and 1 (failure), 2 (user's mistake) or 130 (interrupted).
    """
    words = sys.argv[1:] if words is None else words
    from hydra.errors import (
        ConfigCompositionException,
        HydraException,
        InstantiationException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import OmegaConfBaseException

    for cause in _chain(error):
        if isinstance(cause, UserError):
            return _plain(str(cause)), 2
        if isinstance(cause, TrainingError):
            return _plain(str(cause)), 1
        if isinstance(cause, Interrupted):
            return str(cause), 130
    # Ctrl-C within a third-party library may surface as an error in that library's cleanup code.
    if any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
        return "Interrupted.", 130
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
            name = os.path.basename(str(cause.filename or ""))
            return f"The name '{name[:40]}…' of {len(name)} characters is too long: use a shorter one.", 2
        if isinstance(cause, OSError) and (cause.errno in DISK_REASONS or _made_folder(cause)):
            reason = DISK_REASONS.get(cause.errno or 0, "the folder cannot be created there")
            where = f" {cause.filename}" if cause.filename else ""
            return (
                f"Cannot write{where}: {reason}; files already saved are intact, so choose another place with "
                "paths.output_dir=FOLDER."
            ), 1
    if any(map(memory_ran_out, _chain(error))):
        return "Memory ran out: process fewer or smaller pictures at a time, or use a smaller network.", 1
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error), 2
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override), _first_line(error)), 2
    if isinstance(error, ConfigCompositionException) or (isinstance(error, ValueError) and _from_hydra(error)):
        return unfitting(error, words, config_name) or _first_line(error), 2
    if isinstance(error, InstantiationException):
        return _bad_value(error), 2
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _first_line(error), 2
    if type(error).__name__ == "MisconfigurationException":
        return _first_line(error), 2
    return None


@contextmanager
def user_sentences(*overrides: str) -> Iterator[None]:
    """Convert errors within the block to the message that the command line would print.

    Args:
        overrides: overrides of the configuration that the block composes or uses.

    Raises:
        UserError: for every error that has such a message; ``TrainingError``, ``Interrupted`` and bugs pass unchanged.
    """
    try:
        yield
    except (UserError, TrainingError, Interrupted):
        raise  # already have a message and an exit status
    except Exception as error:
        told = sentence(error, overrides)
        if told is None:
            raise
        raise UserError(told[0]) from error


def _chain(error: BaseException) -> Iterable[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _made_folder(error: OSError) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name in ("mkdir", "makedirs")


def _from_hydra(error: BaseException) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith("hydra.")


def _plain(text: str) -> str:
    """Extract the message of an exception that a data-loader worker wrapped in its own traceback."""
    if text.startswith("Caught "):
        text = text.strip().splitlines()[-1]
        text = re.sub(r"^[\w.]*(Error|Image): ", "", text)
    return text


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(error, "full_key", None)  # of OmegaConf's errors
    return (lines[0] if lines else type(error).__name__) + (f" (at {key})" if key else "")


def _unknown_choice(error: Any) -> str:
    missing = str(error.missing_cfg_file or "")
    group, _, choice = missing.rpartition("/")
    options = list(error.options or [])
    if not group:
        return _first_line(error)
    group = group.rsplit("/", 1)[-1] if group not in ("model", "data") else group
    offered = ", ".join(each for each in options if not each.startswith("_"))
    offer = f" Choose from: {offered}." if offered else ""
    return f"There is no {group}={choice}{did_you_mean(nearest(choice, options))}{offer}"


def _bad_value(error: BaseException) -> str:
    """Error message for an object that cannot be instantiated, with the path of its setting and the cause."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    # Hydra gives the path of the section only in the text of its message, on a separate line.
    lines = [line.strip().partition("full_key:") for line in str(error).splitlines()]
    key = next((after.strip() for before, found, after in lines if found and not before), "")
    reason = _first_line(cause) if cause is not error else _first_line(error)
    return f"The setting '{key}' cannot be used: {reason}" if key else reason
