"""Lookup of scores: the classes of this package that have a key, and any other class by its path."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

import reflectzoo.metrics
from reflectzoo.errors import UserError
from reflectzoo.metrics.images import ImageMetric

_NOT_SCORES = ("parity",)


@cache
def known_metrics() -> dict[str, tuple[type[ImageMetric], ...]]:
    """The scores of this package: key -> classes; several if the protocol selects a variant."""
    found: dict[str, list[type[ImageMetric]]] = {}
    for module in pkgutil.iter_modules(reflectzoo.metrics.__path__):
        if module.name in _NOT_SCORES:
            continue
        content = import_module(f"reflectzoo.metrics.{module.name}")
        for each in vars(content).values():
            if isinstance(each, type) and issubclass(each, ImageMetric) and each.key:
                classes = found.setdefault(each.key, [])
                if each not in classes:
                    classes.append(each)
    return {key: tuple(found[key]) for key in sorted(found)}


def metric_classes(name: str) -> tuple[type[ImageMetric], ...]:
    """The classes for a name in ``protocol.metrics``.

    Args:
        name: a key, or ``module.Class`` of an :class:`ImageMetric` with a key.

    Raises:
        UserError: if there is no such score, or the class cannot be imported or has no key.
    """
    known = known_metrics()
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise UserError(
            f"protocol.metrics must be a list of some of {', '.join(known)}, or your own module.Class, got '{name}'."
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"protocol.metrics names '{name}', which cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, ImageMetric) and found.key):
        raise UserError(f"protocol.metrics names '{name}', which is not an ImageMetric with a key.")
    return (found,)


def digits_of(key: str) -> int:
    """Decimal places of a score, for results of older versions that do not contain them; 3 for an unknown key."""
    classes = known_metrics().get(key, (ImageMetric,))
    return classes[0].digits
