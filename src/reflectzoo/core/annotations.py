"""Annotations for the allowed values of settings: their description in error messages, and their pydantic checks."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen


@dataclass(frozen=True)
class Rule:
    """Requirement that neither a type nor a range can express; goes into ``Annotated``.

    Attributes:
        words: the complete requirement, as it follows "must be".
        holds: predicate on a value of the annotated type.
    """

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Side = Annotated[int, Ge(1), Le(2**14)]
"""Side of a crop in pixels; larger crops would not fit into memory."""
Positive = Annotated[float, Gt(0)]
Weight = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
"""A share below 1."""
HeightWidth = tuple[Count, Count]
"""Height and width, in pixels."""
EvenCount = Annotated[int, Rule("an even number of at least 2", lambda value: value >= 2 and value % 2 == 0)]
OddCount = Annotated[int, Rule("an odd number of at least 1", lambda value: value >= 1 and value % 2 == 1)]


def annotation_in_words(annotation: Any) -> str:
    """Describe an annotation in words that can follow "must be".

    Example:
        >>> annotation_in_words(Count)
        'a whole number of at least 1'
        >>> annotation_in_words(tuple[Positive, Positive] | None)
        'null or a list of 2, each a number above 0'
        >>> annotation_in_words(Literal["skip", "raise"])
        'skip or raise'
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *meta = arguments
        rules = [each.words for each in meta if isinstance(each, Rule)]
        words = " and ".join(rules) if rules else annotation_in_words(base) + _range(meta)
        # Only non-empty lists get a special wording.
        return words.replace("a list,", "a list with entries,") if any(isinstance(m, MinLen) for m in meta) else words
    if origin in (Union, types.UnionType):
        plain = [each for each in arguments if each is types.NoneType or _strict(each) is not None]
        ordered = sorted(plain, key=lambda each: each is not types.NoneType)
        return " or ".join(dict.fromkeys(annotation_in_words(each) for each in ordered))
    if origin is Literal:
        choices = [_said(each) for each in arguments]
        return " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        each = list(dict.fromkeys(annotation_in_words(part) for part in arguments))
        return f"a list of {len(arguments)}, " + (f"each {each[0]}" if len(each) == 1 else ", ".join(each))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, each_value = map(annotation_in_words, arguments)
        each_value = "a section" if needs_object(arguments[1]) else each_value
        return f"names, each with {each_value}" if arguments[0] is str else f"a mapping from {key} to {each_value}"
    if isinstance(origin, type) and issubclass(origin, Collection):
        each_one = annotation_in_words(arguments[0])
        return f"a list of lists{each_one[6:]}" if each_one.startswith("a list") else f"a list, each {each_one}"
    return _NAMES.get(annotation) or f"a {getattr(annotation, '__name__', annotation)}"


_NAMES: dict[Any, str] = {
    **{int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"},
    **{types.NoneType: "null", None: "null"},
}


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _range(meta: Sequence[Any]) -> str:
    def bound(kind: type, name: str) -> Any:
        return next((getattr(each, name) for each in meta if isinstance(each, kind)), None)

    above, least, below, most = bound(Gt, "gt"), bound(Ge, "ge"), bound(Lt, "lt"), bound(Le, "le")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    low = f" above {above}" if above is not None else f" of at least {least}" if least is not None else ""
    high = f" below {below}" if below is not None else f" up to {most}" if most is not None else ""
    return low + (" and" if low and high else "") + high


def needs_object(annotation: Any) -> bool:
    """Whether an annotation accepts only instances of reflectzoo or ``torch.nn`` classes, or callables.

    Such values cannot be written in YAML; they need a section with a ``_target_``.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return needs_object(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = [each for each in arguments if each is not types.NoneType]
        return bool(kinds) and all(map(needs_object, kinds))
    return origin is Callable or (isinstance(annotation, type) and annotation.__module__.startswith(_MAKERS))


_MAKERS = ("reflectzoo.", "torch.nn.")


@functools.cache
def validator_of(annotation: Any) -> Any:
    """Pydantic validator (a ``TypeAdapter``) for an annotation; None if pydantic can check no part of it."""
    strict = _strict(annotation)
    if strict is None:
        return None
    from pydantic import TypeAdapter

    return TypeAdapter(strict)


def _strict(annotation: Any) -> Any:
    """Translate an annotation for pydantic; None if no part of it can be checked.

    Scalars are strict (a string is never converted to a number), but lists are accepted as tuples, which YAML lacks.
    """
    from pydantic import AfterValidator, AllowInfNan, InstanceOf, Strict

    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base = _strict(arguments[0])
        if base is None:
            return None
        return Annotated[(base, *(AfterValidator(_holding(m)) if isinstance(m, Rule) else m for m in arguments[1:]))]
    if origin in (Union, types.UnionType):
        parts = [_strict(each) for each in arguments]
        if all(part is None for part in parts):
            return None
        others = [each for each, part in zip(arguments, parts, strict=True) if part is None]
        if not all(isinstance(each, type) for each in others):
            return None
        known = [part for part in parts if part is not None]
        return Union[(*known, *(cast(Any, InstanceOf)[each] for each in others))]
    if origin is Literal:
        return annotation
    if annotation in (None, types.NoneType):
        return types.NoneType
    if annotation is float:
        return Annotated[float, Strict(), AllowInfNan(False)]
    if annotation is int:
        return Annotated[int, Strict(), Ge(-(2**63)), Lt(2**63)]  # int64
    if annotation in (bool, str):
        return Annotated[annotation, Strict()]
    if annotation is Path:
        return Union[Annotated[str, Strict()], InstanceOf[Path]]  # noqa: UP007
    if isinstance(origin, type) and issubclass(origin, Collection):
        inner = [each if each is Ellipsis else _strict(each) for each in arguments]
        if not inner or any(each is None for each in inner):
            return None
        return origin[tuple(inner)]  # type: ignore[index]
    return None


def _holding(rule: Rule) -> Callable[[Any], Any]:
    def hold(value: Any) -> Any:
        if not rule.holds(value):
            raise ValueError(rule.words)
        return value

    return hold
