"""From exceptions to one clear sentence and an exit status."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reflectzoo.errors import DISK_REASONS, Interrupted, TrainingError, UserError


def sentence(error: BaseException, words: Sequence[str] | None = None) -> tuple[str, int] | None:
    """What to tell the user about an exception, and the exit status; None for a bug or a plain exit.

    Args:
        error: what was raised.
        words: the overrides that were given; the command line's when None.
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
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", 130
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
            name = os.path.basename(str(cause.filename or ""))
            return f"The name '{name[:40]}…' of {len(name)} letters is too long: give a shorter one.", 2
        if isinstance(cause, OSError) and (cause.errno in DISK_REASONS or _made_folder(cause)):
            reason = DISK_REASONS.get(cause.errno or 0, "the folder cannot be made there")
            where = f" {cause.filename}" if cause.filename else ""
            return (
                f"Cannot write{where}: {reason}; what was already saved is untouched, choose another place "
                "with paths.output_dir=FOLDER."
            ), 1
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error), 2
    if isinstance(error, ConfigCompositionException):
        return _bad_composition(error, words), 2
    if isinstance(error, OverrideParseException):
        return _unreadable_override(str(error.override), _first_line(error)), 2
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
    except UserError:
        raise
    except Exception as error:
        told = sentence(error, overrides)
        if told is None:
            raise
        raise UserError(told[0]) from error


def _unreadable_override(word: str, reason: str) -> str:
    """What to write instead, ready to be copied into a shell, if quoting is all that lacks."""
    key, equals, value = word.partition("=")
    if equals and value:
        for quoted in (f"'{value}'", f'"{value}"', "'" + re.sub(r"(\\*)'", r"\1\1\'", value) + "'"):
            if _reads_as(f"{key}={quoted}", value):
                copied = shlex.quote(f"{key}={quoted}")
                return f"The override '{word}' cannot be read; write key=value with quotes around its value: {copied}"
    return (
        f"The override '{word}' cannot be read ({reason}): write key=value, with quotes of its own around a value that "
        "has blanks, commas or letters like ü in it: \"key='value'\"."
    )


def _reads_as(word: str, value: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(word).value() == value)
    except HydraException:
        return False


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


def _plain(text: str) -> str:
    """A worker process wraps what it raises in its own traceback; keep the sentence."""
    if text.startswith("Caught "):
        text = text.strip().splitlines()[-1]
        text = re.sub(r"^[\w.]*(Error|Image): ", "", text)
    return text


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    return (lines[0] if lines else type(error).__name__) + (f" (at {key})" if key else "")


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known words most like a misspelt one."""
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, known, n=limit, cutoff=0.6)
    return close or [each for each in known if each.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]][:limit]


def did_you_mean(close: list[str]) -> str:
    """The end of a sentence about a misspelt word."""
    return f"; did you mean {' or '.join(close)}?" if close else "."


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


def _bad_composition(error: BaseException, words: Sequence[str]) -> str:
    text = " ".join(str(error).split())
    if "must specify" in text:
        found = re.search(r"must specify '([\w/]+)'", text)
        group = found.group(1) if found else "model"
        misspelt = [word.split("=")[0] for word in words if nearest(word.split("=")[0], [group])]
        if misspelt and misspelt[0] != group:
            return f"There is no setting '{misspelt[0]}'; did you mean {group}?"
        from reflectzoo.config import choices

        return f"Say which {group}: {group}=<name>, one of {', '.join(choices(group))}."
    found = re.search(r"Could not (?:override|delete) '([^']+)'|Could not delete from config\.? ?'?([^' ]+)", text)
    if found:
        key = (found.group(1) or found.group(2)).split("@")[0]
        sweep = any(word in ("-m", "--multirun") for word in words)
        hint = " In a multirun, a setting that only some of the models have is written ++key=value." if sweep else ""
        return f"There is no setting '{key}'{did_you_mean(nearest(key, _known_keys(words)))}{hint}"
    return _first_line(error)


def _known_keys(words: Sequence[str]) -> list[str]:
    """Every dotted key of the configuration that the rest of this command line gives, and the groups."""
    from pathlib import Path

    from omegaconf import DictConfig

    from reflectzoo.config import compose_config, config_dir

    groups = [
        folder.name for folder in Path(config_dir()).iterdir() if folder.is_dir() and folder.name != "__pycache__"
    ]
    chosen = [word for word in words if word.split("=")[0] in groups and "," not in word and "=" in word]
    keys = list(groups)
    try:
        config = compose_config(chosen)
    except Exception:  # a choice from the user's own --config-dir, perhaps; the suggestion is only a courtesy
        return keys

    def walk(node: DictConfig, prefix: str) -> None:
        for name in node:
            key = f"{prefix}{name!s}"
            keys.append(key)
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not (
                child._is_interpolation() or child._is_none() or child._is_missing()
            ):
                walk(child, f"{key}.")

    walk(config, "")
    return keys


def _bad_value(error: BaseException) -> str:
    """An object that could not be made: say which setting, and what its maker said."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(error).splitlines()
    key = next((line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key:")), "")
    reason = _first_line(cause) if cause is not error else _first_line(error)
    return f"The setting '{key}' cannot be used: {reason}" if key else reason
