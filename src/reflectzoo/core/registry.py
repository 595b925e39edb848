"""Registry of all methods: the folders of ``reflectzoo/methods``, and those of third-party packages.

A third-party package registers its method by an entry point in its ``pyproject.toml``::

    [project.entry-points."reflectzoo.methods"]
    mine = "mypackage:METHOD"

Its configuration is expected in ``mypackage/conf`` (``conf/model/mine.yaml`` and so on), its weight records in
``mypackage/weights``.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from reflectzoo.core.method import Method
from reflectzoo.errors import UserError

GROUP = "reflectzoo.methods"
"""Entry-point group of packages that provide methods."""


@cache
def methods() -> dict[str, Method]:
    """All methods by name: those of reflectzoo in alphabetical order, then those of plugins.

    A plugin that cannot be imported, or whose name or models are already taken, is skipped with a warning, so that it
    does not break the other methods.

    Raises:
        UserError: if a folder of reflectzoo contains code but declares no method, or two declare the same method or
            model name.
    """
    found: dict[str, Method] = {}
    for folder in _folders():
        method = getattr(importlib.import_module(f"reflectzoo.methods.{folder}"), "METHOD", None)
        if not isinstance(method, Method):
            raise UserError(
                f"The folder reflectzoo/methods/{folder} declares no method: write METHOD = Method(...) in its "
                "__init__.py, as `reflectzoo new method NAME` does."
            )
        if (clash := _clash(method, found)) is not None:
            raise UserError(f"reflectzoo/methods/{folder}: {clash}.")
        found[method.name] = method
    for point in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        try:
            method = _load(point)
        except Exception as error:  # importing a third-party package may raise anything
            warnings.warn(f"The plugin {_who(point)} is skipped: {error}", stacklevel=2)
            continue
        if (clash := _clash(method, found)) is not None:
            warnings.warn(f"The plugin {_who(point)} is skipped: {clash}", stacklevel=2)
            continue
        found[method.name] = method
    return found


def find_method(model: str) -> Method | None:
    """The method that provides a model; None if there is none."""
    return next((method for method in methods().values() if model in method.models), None)


def method_of(model: str) -> Method:
    """The method that provides a model.

    Raises:
        UserError: if there is none, with a list of all models.
    """
    method = find_method(model)
    if method is None:
        raise UserError(f"There is no model '{model}': choose from {', '.join(model_names())}.")
    return method


def share_layout(one: str, other: str) -> bool:
    """Whether the weight files and settings of two models are interchangeable: both are in one family of one method."""
    method = find_method(one)
    return one == other or (method is not None and method is find_method(other) and method.alike(one, other))


def model_names() -> list[str]:
    """Every choice of ``model=``, in alphabetical order."""
    return sorted(model for method in methods().values() for model in method.models)


def find_network(target: str) -> tuple[Method, str] | None:
    """The method and name of the network at a dotted path (``_target_`` in YAML); None if no method registers it."""
    for method in methods().values():
        for name, path in method.network_targets().items():
            if path == target:
                return method, name
    return None


def _folders() -> list[str]:
    """Names of all method folders, including those whose ``__init__.py`` was forgotten."""
    here = Path(__file__).parents[1] / "methods"
    packages = {each.name for each in pkgutil.iter_modules([str(here)]) if each.ispkg}
    bare = {each.parent.name for each in here.glob("*/*.py")}
    return sorted(packages | bare)


def _load(point: EntryPoint) -> Method:
    method = point.load()
    if not isinstance(method, Method):
        raise TypeError(f"{point.value} is a {type(method).__name__}, not a reflectzoo.core.method.Method")
    return method


def _clash(method: Method, others: dict[str, Method]) -> str | None:
    if method.name in others:
        return f"the method '{method.name}' already exists in {others[method.name].package}"
    for other in others.values():
        for model in method.models:
            if model in other.models:
                return f"the model '{model}' already exists in {other.package}"
    return None


def _who(point: EntryPoint) -> str:
    return f"{point.name} ({point.dist.name} {point.dist.version})" if point.dist is not None else point.name
