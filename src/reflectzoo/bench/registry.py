"""What a benchmark is made of, and how subjects are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, cast

import reflectzoo.bench

Prepared: TypeAlias = Callable[[], object]
"""One run of what is measured; everything that should not count was done before."""

# Modules beside this one that hold no subject.
_MACHINERY = {"__main__", "command", "inference", "measure", "networks", "registry", "scores", "train"}


@dataclass(frozen=True)
class Options:
    """What the command line asks of every subject.

    Attributes:
        shrink: pictures are this many times smaller than stated; to see that a benchmark runs, not for its numbers.
        seed: of weights and pictures.
    """

    shrink: int = 1
    seed: int = 0


@dataclass(frozen=True)
class SpeedComparison:
    """One row: the plain form against the fast one.

    Attributes:
        key: name in files, unique within a subject.
        name: title of the row.
        measure: "seconds" of the best of several runs, or "memory", the peak above the idle process.
        goal: the ratio that we mean to reach.
        plain: prepares the plain form and returns what runs it once.
        fast: likewise for the fast form.
        bf16: whether it makes sense only where the processor multiplies bfloat16 matrices.
    """

    key: str
    name: str
    measure: Literal["seconds", "memory"]
    goal: float
    plain: Callable[[], Prepared]
    fast: Callable[[], Prepared]
    bf16: bool = False


class Subject(Protocol):
    """A module of this package."""

    TITLE: str

    def comparisons(self, options: Options) -> list[SpeedComparison]:
        """The rows of the table, in order."""
        ...


def find_subjects() -> dict[str, Subject]:
    """Every subject by its module's name, in alphabetical order."""
    names = sorted(found.name for found in pkgutil.iter_modules(reflectzoo.bench.__path__))
    return {
        name: cast(Subject, importlib.import_module(f"reflectzoo.bench.{name}"))
        for name in names
        if name not in _MACHINERY
    }
