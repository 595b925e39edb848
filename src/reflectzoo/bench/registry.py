"""Data structures of benchmarks, and discovery of subjects."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, cast

import reflectzoo.bench

Prepared: TypeAlias = Callable[[], object]
"""Function that runs the measured code once; its preparation is not measured."""

# Modules of this package that are not subjects.
_MACHINERY = {"__main__", "command", "inference", "measure", "networks", "registry", "scores", "train"}


@dataclass(frozen=True)
class Options:
    """Options of the command line for all subjects.

    Attributes:
        shrink: factor by which the sides of pictures are divided; for a quick test that a benchmark runs.
        seed: random seed of weights and pictures.
    """

    shrink: int = 1
    seed: int = 0


@dataclass(frozen=True)
class SpeedComparison:
    """One row: the plain form compared with the fast one.

    Attributes:
        key: name in files, unique within a subject.
        name: title of the row.
        measure: "seconds", the best of several runs, or "memory", the peak above the idle process.
        goal: ratio of plain to fast that we aim for.
        plain: prepares the plain form and returns a function that runs it once.
        fast: the same for the fast form.
        bf16: whether the row is meaningful only on processors with bfloat16 matrix units.
    """

    key: str
    name: str
    measure: Literal["seconds", "memory"]
    goal: float
    plain: Callable[[], Prepared]
    fast: Callable[[], Prepared]
    bf16: bool = False


class Subject(Protocol):
    """Interface of a module of this package that is a subject."""

    TITLE: str

    def comparisons(self, options: Options) -> list[SpeedComparison]:
        """The rows of the table, in order."""
        ...


def find_subjects() -> dict[str, Subject]:
    """Import all subjects; by module name, in alphabetical order."""
    names = sorted(found.name for found in pkgutil.iter_modules(reflectzoo.bench.__path__))
    return {
        name: cast(Subject, importlib.import_module(f"reflectzoo.bench.{name}"))
        for name in names
        if name not in _MACHINERY
    }
