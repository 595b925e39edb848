"""Search spaces of studies: YAML files of ``key: range or choices``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from reflectzoo.config import choices, config_dir
from reflectzoo.errors import UserError

Space = dict[str, BaseDistribution]
"""Dotted setting -> distribution of its values."""

_RANGE = {"low", "high", "log", "step"}


def packaged_space(model: str) -> Path:
    """Packaged search space for a model: that of its name, otherwise of its family, otherwise the default.

    Args:
        model: e.g. ``ytmt_ucs``, whose family is ``ytmt``.

    Returns:
        Path of a file in ``conf/space/``.
    """
    known = choices("space")
    fitting = [name for name in known if model == name or model.startswith(f"{name}_")]
    return Path(config_dir()) / "space" / f"{max(fitting, key=len, default='default')}.yaml"


def find_space(wanted: str | None, model: str) -> Path:
    """Find the file of a search space.

    Args:
        wanted: name of a packaged space, or path of a file; None for the model's packaged space.
        model: see :func:`packaged_space`.

    Raises:
        UserError: if there is no such space or file.
    """
    if wanted is None:
        return packaged_space(model)
    if wanted in choices("space"):
        return Path(config_dir()) / "space" / f"{wanted}.yaml"
    path = Path(wanted).expanduser()
    if path.is_file():
        return path
    raise UserError(
        f"There is no search space {wanted}: give a YAML file of 'key: {{low: ..., high: ...}}', or one of "
        f"{', '.join(choices('space'))}."
    )


def read_space(path: Path) -> Space:
    """Read a search space.

    Each entry maps a dotted setting to either ``{low, high}`` (both ends included; integers if both are integers;
    ``log: true`` for a logarithmic scale, ``step`` for multiples of a step) or ``{choices: [...]}``.

    Args:
        path: YAML file.

    Returns:
        At least one distribution.

    Raises:
        UserError: naming the file, the entry and the problem.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The search space {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(found, dict) or not found:
        raise UserError(f"The search space {path} is empty: give at least one 'key: {{low: ..., high: ...}}'.")
    return {str(key): _distribution(entry, f"{key} in {path}") for key, entry in found.items()}


def _distribution(entry: Any, where: str) -> BaseDistribution:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} must be {{low: ..., high: ...}} or {{choices: [...]}}, got {entry!r}.")
    if "choices" in entry:
        options = entry["choices"]
        plain = isinstance(options, list) and all(
            each is None or isinstance(each, bool | int | float | str) for each in options
        )
        if set(entry) != {"choices"} or not plain or not options:
            raise UserError(f"{where} must list at least one number, word, true, false or null under choices.")
        return CategoricalDistribution(options)
    if not {"low", "high"} <= set(entry) <= _RANGE:
        raise UserError(f"{where} needs low and high, and optionally log and step, got {', '.join(map(str, entry))}.")
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    numbers = [each for each in (low, high, step) if each is not None]
    if not isinstance(log, bool) or any(
        isinstance(each, bool) or not isinstance(each, int | float) for each in numbers
    ):
        raise UserError(
            f"{where} must have numbers for low, high and step, and true or false for log (1e-4 is 1.0e-4)."
        )
    if not low < high or (log and low <= 0) or (step is not None and (step <= 0 or log)):
        raise UserError(f"{where} needs low < high, with log a low above 0 and no step, and a step above 0.")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return IntDistribution(low, high, log=log, step=1 if step is None else step)
    return FloatDistribution(float(low), float(high), log=log, step=step)


def split_space(space: Space, config: DictConfig) -> tuple[Space, list[str]]:
    """Split a space by whether a configuration has the settings.

    Returns:
        The entries whose setting exists, and the keys of the others.
    """
    nothing = object()
    here = {key: each for key, each in space.items() if OmegaConf.select(config, key, default=nothing) is not nothing}
    return here, [key for key in space if key not in here]


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Format drawn values as overrides for a command line.

    Example:
        >>> as_overrides({"optimizer.lr": 0.0001, "model.net.fusion": None, "data.augment": "hard"})
        ['optimizer.lr=0.0001', 'model.net.fusion=null', 'data.augment=hard']
    """
    return [f"{key}={_word(value)}" for key, value in values.items()]


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
