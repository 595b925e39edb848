"""Error messages for overrides that a configuration does not accept.

Hydra identifies the faulty override only in the text of its message. This module therefore parses and composes the
overrides again; the first one with which composition fails is the faulty one.
"""

from __future__ import annotations

import bisect
import functools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reflectzoo.cli.spelling import did_you_mean, nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


def unreadable(word: str, reason: str) -> str:
    """Error message for an override that Hydra cannot parse.

    Args:
        word: the override.
        reason: Hydra's message, shown if no suggestion can be made.

    Returns:
        A sentence with the corrected override, ready to be copied, if only quotes are missing; otherwise with advice.
    """
    key, equals, value = word.partition("=")
    if equals and value:
        for quoted in (f"'{value}'", f'"{value}"', f"'{_escaped(value)}'"):
            if _reads_as(f"{key}={quoted}", value):
                copied = shlex.quote(f"{key}={quoted}")
                return f"The override '{word}' cannot be read; write key=value with quotes around its value: {copied}"
    return (
        f"The override '{word}' cannot be read ({reason}): write key=value, and put quotes around a value that "
        "contains spaces, commas or letters like ü: \"key='value'\"."
    )


def _escaped(value: str) -> str:
    """Escape a value for single quotes: escape each quote, and double the backslashes before it."""
    parts = value.split("'")
    doubled = [part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in parts[:-1]]
    return "\\'".join([*doubled, parts[-1]])


def _reads_as(word: str, value: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(word).value() == value)
    except HydraException:
        return False


def unfitting(error: BaseException, words: Sequence[str], config_name: str) -> str | None:
    """Error message for overrides that can be parsed but not composed.

    Args:
        error: raised by Hydra.
        words: arguments of the command line, including Hydra's own options.
        config_name: the configuration to which the overrides apply.

    Returns:
        A sentence; None if no override is at fault, or the message of ``error`` itself is clear enough.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    from reflectzoo.config import choices

    given = _Given.read(words, config_name)
    if (several := next((each for each in given.overrides if each.is_sweep_override()), None)) and not given.many:
        return f"'{several.input_line}' gives several values: add -m to run with each of them, or brackets for a list."
    named = [each.key_or_group for each in given.overrides]
    for group in given.required:
        if group not in named:
            misspelt = [name for name in named if nearest(name, [group])]
            if misspelt:
                return f"There is no setting '{misspelt[0]}'; did you mean {group}?"
            return f"Say which {group}: {group}=<name>, one of {', '.join(choices(group))}."
    found = given.first_wrong()
    if found is None:
        return None
    wrong, config = found
    name, written = wrong.key_or_group, str(wrong.input_line)
    value = written.partition("=")[2]
    chosen = {str(group).partition("@")[0] for group in config.hydra.runtime.choices}
    if name in chosen:
        if wrong.package is not None or wrong.is_delete():
            return f"'{written}' does not fit: the choice is made by {name}=<name>."
        if isinstance(wrong.value(), str):
            return f"'{written}' does not fit: write {name}={value}."
        return f"There is no {name}={value}. Choose from: {', '.join(choices(name))}."
    unknown = isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError)
    if unknown or wrong.package is not None or _is_group(name):
        return _no_such(name, config, given.many)
    there = OmegaConf.select(config, name, throw_on_missing=False) is not None
    if wrong.is_add() and there:
        return f"There is a setting '{name}' already: write {name}={value}."
    if wrong.is_delete():
        return f"The setting '{name}' is not {value}: write ~{name}." if there else _no_such(name, config, given.many)
    return None


@dataclass(frozen=True)
class _Given:
    """Parsed command line of a Hydra command.

    Attributes:
        config_name: name of the configuration.
        overrides: those of required groups first, then those of other groups, since groups add settings, then settings.
        required: config groups without a default choice.
        many: whether it is a multirun.
        search: override that adds the folder of ``--config-dir`` to Hydra's search path; empty without that option.
    """

    config_name: str
    overrides: list[Override]
    required: list[str]
    many: bool
    search: list[str]

    @classmethod
    def read(cls, words: Sequence[str], config_name: str) -> _Given:
        from hydra._internal.utils import get_args_parser
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        from reflectzoo.config import config_dir

        options, _ = get_args_parser().parse_known_args(list(words))
        primary = Path(config_dir()) / f"{config_name}.yaml"
        defaults = OmegaConf.to_container(OmegaConf.load(primary).defaults)
        assert isinstance(defaults, list)
        required = [str(group) for each in defaults if isinstance(each, dict) for group in each if each[group] == "???"]
        overrides = OverridesParser.create().parse_overrides(options.overrides)
        overrides.sort(key=lambda each: (each.key_or_group not in required, not _is_group(each.key_or_group)))
        folder = options.config_dir
        search = [f"hydra.searchpath=['file://{Path(folder).absolute()}']"] if folder else []
        return cls(options.config_name or config_name, overrides, required, bool(options.multirun), search)

    def first_wrong(self) -> tuple[Override, DictConfig] | None:
        """The first override with which composition fails, and the configuration composed from those before it.

        None if all of them can be composed, or not even those of the required groups.
        """
        composed = functools.cache(self._composed)
        least = len(self.required)
        lengths = range(least, len(self.overrides) + 1)
        fitting = bisect.bisect_left(lengths, True, key=lambda length: composed(length) is None) + least - 1
        config = composed(fitting) if least <= fitting < len(self.overrides) else None
        return None if config is None else (self.overrides[fitting], config)

    def _composed(self, length: int) -> DictConfig | None:
        """Compose the first ``length`` overrides, with Hydra's own configuration; None if that fails."""
        from hydra.errors import HydraException

        from reflectzoo.config import compose_config

        words = [word for each in self.overrides[:length] for word in _first_value(each)]
        try:
            return compose_config([*self.search, *words], self.config_name, with_hydra=True)
        except (HydraException, ValueError):
            return None


def _first_value(override: Override) -> Iterator[str]:
    """The override as written, or the first value of a discrete sweep; nothing for other sweeps."""
    if not override.is_sweep_override():
        yield str(override.input_line)
    elif override.is_discrete_sweep():
        yield f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def _is_group(name: str) -> bool:
    from reflectzoo.config import choices

    return bool(choices(name))


def _no_such(name: str, config: DictConfig, many: bool) -> str:
    known = [*config.hydra.runtime.choices, *_keys(config)]
    close = nearest(name, [each for each in map(str, known) if each != name and not each.startswith("hydra")])
    hint = " In a multirun, write ++key=value for a setting that only some models have." if many else ""
    return f"There is no setting '{name}'{did_you_mean(close)}{hint}"


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration."""
    from omegaconf import DictConfig

    for name in node:
        key = f"{prefix}{name!s}"
        yield key
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not (child._is_interpolation() or child._is_none() or child._is_missing()):
            yield from _keys(child, f"{key}.")
