"""Validation of settings: a constructor's annotations define the allowed values; any other raises a clear error.

.. code-block:: python

    @checked("model.net")
    def __init__(self, width: Count = 64, pattern: Literal["C", "A"] = "C") -> None: ...

:func:`checked` validates every call, :func:`check_tree` a configuration before anything is built from it; errors name
the path of the setting. The annotations are defined in :mod:`reflectzoo.core.annotations`. Values are never converted:
a string is not a number or a boolean, and a float is not an integer.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import numbers
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, TypeVar, cast, get_args, get_type_hints

from annotated_types import Ge, Le, Lt

from reflectzoo.core.annotations import (
    Count,
    NotNegative,
    Rule,
    Weight,
    annotation_in_words,
    needs_object,
    validator_of,
)
from reflectzoo.errors import UserError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SettingError(UserError):
    """A setting has an invalid value.

    Attributes:
        path: path of the setting, as on the command line.
        wanted: description of the allowed values.
        value: the value given.
    """

    def __init__(self, path: str, wanted: str, value: object) -> None:
        self.path, self.wanted, self.value = path, wanted, value
        shown = repr(value)
        super().__init__(f"{path} must be {wanted}, got {shown if len(shown) <= 100 else shown[:97] + '...'}.")

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str, object]]:
        return type(self), (self.path, self.wanted, self.value)


def check_value(path: str, value: object, annotation: Any) -> None:
    """Check a value against an annotation.

    Args:
        path: path of the setting, for the message.
        value: numbers, strings, booleans or None, and lists and mappings of these.
        annotation: a type. Types that plain values cannot express, such as modules and callables, are not checked.

    Raises:
        SettingError: with the path, the description of the allowed values, and the value.
    """
    adapter = validator_of(annotation)
    if adapter is None:
        return
    value = _as_plain(value)
    from pydantic import ValidationError

    try:
        adapter.validate_python(value)
    except ValidationError:
        raise SettingError(path, annotation_in_words(annotation), value) from None


def checked(place: str = "") -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate a function, usually ``__init__``, to check the arguments of every call against its annotations.

    The decorated function raises :class:`SettingError` for the first invalid argument.

    Args:
        place: path of its settings in the configuration, e.g. ``model.net``; for the messages.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def hold(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
            except TypeError:  # the call below raises a clearer error
                given = {}
            hints = _hints(function)
            for name, value in given.items():
                if name in hints and signature.parameters[name].kind not in (_ARGUMENTS, _KEYWORDS):
                    check_value(f"{place}.{name}" if place else name, value, hints[name])
            return function(*args, **kwargs)

        return hold

    return decorate


class Checked:
    """Base class that checks the constructor arguments of its subclasses against their annotations.

    ``class Synthesis(Checked, nn.Module, place="synthesis")`` sets the path of their settings in the configuration.
    """

    _place: ClassVar[str] = ""

    def __init_subclass__(cls, place: str | None = None, **kwargs: Any) -> None:
        """Wrap the constructor of the subclass in :func:`checked`."""
        super().__init_subclass__(**kwargs)
        if place is not None:
            cls._place = place
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", checked(cls._place)(cls.__dict__["__init__"]))  # noqa: B010


_ARGUMENTS, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


# -- configurations ----------------------------------------------------------------------------------------------------


def check_entries(config: Any, annotations: Mapping[str, Any]) -> None:
    """Check settings that belong to no constructor.

    Args:
        config: a ``DictConfig``; entries that are missing, or refer to missing entries, are skipped.
        annotations: path of each setting -> its annotation.

    Raises:
        SettingError: for the first invalid value.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for path, annotation in annotations.items():
        try:
            value = OmegaConf.select(config, path, default=_ABSENT, throw_on_missing=True)
        except OmegaConfBaseException:
            continue
        if value is not _ABSENT:
            check_value(path, value, annotation)


_ABSENT = object()


def check_tree(config: Any, given: Collection[str] = ()) -> None:
    """Check a part of the configuration before objects are built from it.

    Args:
        config: a ``DictConfig``; every mapping with a ``_target_`` is checked against the annotations of that target.
        given: arguments of the outermost target that are passed in Python rather than in the configuration.

    Raises:
        SettingError: for a value that its target does not accept.
        UserError: for a setting that its target does not have, or a required one that is missing.
    """
    for path, node in _targets(config):
        _check_node(path, node, given if node is config else ())


def _check_node(path: str, node: Any, given: Collection[str]) -> None:
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    name = node["_target_"]
    try:
        target = get_object(str(name))
    except Exception:  # instantiation reports the reason
        return
    parameters, is_open = parameters_of(target)
    prefix = f"{path}." if path else ""
    for key in node:
        if str(key).startswith("_") or OmegaConf.is_missing(node, key):
            continue
        if key not in parameters:
            if not is_open:
                close = difflib.get_close_matches(str(key), parameters, n=1)
                hint = f"did you mean {prefix}{close[0]}?" if close else f"{str(name).rpartition('.')[2]} has none."
                raise UserError(f"There is no setting '{prefix}{key}'; {hint}")
            continue
        value = node[key]
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if not _holds_target(plain):
            annotation = parameters[key].annotation
            optional = plain is None and (parameters[key].default is None or types.NoneType in get_args(annotation))
            if not optional and not isinstance(plain, Mapping) and needs_object(annotation):
                raise SettingError(
                    f"{prefix}{key}", f"a section with a _target_, or a reference such as ${{{key}}}", plain
                )
            check_value(f"{prefix}{key}", plain, annotation)
    if node.get("_partial_") or node.get("_args_"):
        return
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in node and key not in given:
            raise UserError(f"The setting '{prefix}{key}' is missing: add {prefix}{key}=… to the configuration.")


def _targets(node: Any, path: str | None = None) -> Iterator[tuple[str, Any]]:
    """Mappings with a ``_target_`` and their paths; an interpolation is given the path of the node it refers to."""
    from omegaconf import DictConfig, ListConfig

    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    path = node._get_full_key(None) if path is None else path
    children: list[tuple[str, Any]]
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        children = [(str(key), node._get_node(key)) for key in node.keys()]  # noqa: SIM118
    else:
        children = [(str(index), node._get_node(index)) for index in range(len(cast(Sequence[Any], node)))]
    for key, child in children:
        followed = child._maybe_dereference_node() if child is not None and child._is_interpolation() else child
        if not isinstance(followed, DictConfig | ListConfig):
            continue
        elsewhere = followed is not child and followed._get_parent() is not None
        inner = f"[{key}]" if isinstance(node, ListConfig) else f".{key}" if path else key
        yield from _targets(followed, followed._get_full_key(None) if elsewhere else f"{path}{inner}")


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_target, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_target, value))


def parameters_of(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The keyword arguments of a target, and whether it accepts arbitrary others.

    If a constructor takes ``**kwargs``, the arguments of its base classes are included, or those of the class that
    :data:`PASSED_ON` names. Annotations are resolved to types; :data:`NARROWED` overrides those of third-party classes.
    """
    found: dict[str, inspect.Parameter] = {}
    functions: list[Any] = [target]
    if isinstance(target, type):
        functions = [each.__dict__["__init__"] for each in target.__mro__[:-1] if "__init__" in each.__dict__]
        functions = functions or [target]  # made by __new__, which for built-in types tells nothing of its arguments
    is_open = False
    for function in functions:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return found, True
        hints = _hints(function)
        parameters = list(signature.parameters.values())
        for parameter in parameters if function is target else parameters[1:]:
            if parameter.kind not in (_ARGUMENTS, _KEYWORDS, inspect.Parameter.POSITIONAL_ONLY):
                annotation = hints.get(parameter.name, Any)
                found.setdefault(parameter.name, parameter.replace(annotation=annotation))
        is_open = any(parameter.kind is _KEYWORDS for parameter in parameters)
        if not is_open:
            break
    taker = PASSED_ON.get(f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}")
    if taker is not None:
        module, _, name = taker.rpartition(".")
        taken, _ = parameters_of(getattr(importlib.import_module(module), name))
        # What has no default, the target itself gives.
        found = {key: each for key, each in taken.items() if each.default is not inspect.Parameter.empty} | found
    for each in reversed(getattr(target, "__mro__", ())):
        for name, annotation in NARROWED.get(f"{each.__module__}.{each.__qualname__}", {}).items():
            if name in found:
                found[name] = found[name].replace(annotation=annotation)
    return found, is_open


def _is_devices(value: int | str | Sequence[int]) -> bool:
    if isinstance(value, str):
        return value == "auto" or all(part.strip().lstrip("-").isdigit() for part in value.split(","))
    return value == -1 or value >= 1 if isinstance(value, int) else len(value) > 0 and min(value) >= 0


_Limit = Annotated[int | float, Rule(
    "a whole number of at least 0, or a share from 0.0 to 1.0",
    lambda value: value >= 0 and (isinstance(value, int) or value <= 1),
)]  # fmt: skip

_Precision = Literal[
    "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "bf16", "16", "32", "64", 16, 32, 64,
]  # fmt: skip
_Interval = Annotated[int | float | str, Rule("a number of batches, a share of an epoch, or a time as DD:HH:MM:SS, above 0", lambda value: isinstance(value, str) or value > 0)]  # fmt: skip  # noqa: E501

#: Third-party classes that pass ``**kwargs`` on to another class than their base.
PASSED_ON = {
    "pytorch_lightning.strategies.ddp.DDPStrategy": "torch.nn.parallel.DistributedDataParallel",
    "pytorch_lightning.strategies.fsdp.FSDPStrategy": "torch.distributed.fsdp.FullyShardedDataParallel",
}

#: Stricter annotations for arguments of third-party classes whose own annotations allow invalid values.
NARROWED: Mapping[str, Mapping[str, Any]] = {
    "torch.optim.optimizer.Optimizer": {
        "lr": Annotated[float, Ge(0), Le(1000)],  # Adam's step would overflow with 1e38
        "betas": tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]],
        "eps": Weight,
        "weight_decay": Weight,
        "momentum": Weight,
    },
    "pytorch_lightning.loggers.csv_logs.CSVLogger": {"flush_logs_every_n_steps": Count},
    "pytorch_lightning.trainer.trainer.Trainer": {
        "max_epochs": Annotated[int, Ge(-1)] | None,
        "min_epochs": NotNegative | None,
        "max_steps": Annotated[int, Ge(-1)],
        "min_steps": NotNegative | None,
        "val_check_interval": _Interval | None,
        "precision": _Precision | None,
        "devices": Annotated[
            int | str | Sequence[int], Rule("a number of devices, a list of their numbers, or auto", _is_devices)
        ],
        "num_nodes": Count,
        "accumulate_grad_batches": Count,
        "check_val_every_n_epoch": Count | None,
        "log_every_n_steps": NotNegative | None,
        "gradient_clip_val": Weight | None,
        "limit_train_batches": _Limit | None,
        "limit_val_batches": _Limit | None,
        "limit_test_batches": _Limit | None,
        "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    },
}


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # third-party classes may use names that are imported only for type checkers
        return {}


def _as_plain(value: Any) -> Any:
    """Convert OmegaConf containers and NumPy numbers to plain Python objects."""
    if type(value).__module__.startswith("omegaconf."):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(value, resolve=True)
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value
