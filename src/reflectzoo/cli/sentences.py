"""From exceptions to one clear sentence and an exit status."""

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
    """What to tell the user about an exception, and the exit status; None for a bug or a plain exit.

    Args:
        error: what was raised.
        words: the overrides that were given; the command line's when None.
        config_name: the configuration that they are for.
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
    # Ctrl-C in the middle of other people's code may come out as a fault of that code's clearing up.
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
    """Turn what Hydra says of a wrong name or value into the sentence that the command line would print."""
    try:
        yield
    except (UserError, TrainingError, Interrupted):
        raise  # they are sentences already, and each has its exit status
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
    """A worker process wraps what it raises in its own traceback; keep the sentence."""
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
    """An object that could not be made: say which setting, and what its maker said."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    # Hydra tells the path of the part in its text alone, on a line of its own.
    lines = [line.strip().partition("full_key:") for line in str(error).splitlines()]
    key = next((after.strip() for before, found, after in lines if found and not before), "")
    reason = _first_line(cause) if cause is not error else _first_line(error)
    return f"The setting '{key}' cannot be used: {reason}" if key else reason
