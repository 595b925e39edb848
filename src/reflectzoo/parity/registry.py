"""Who can compute what was recorded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Protocol

from reflectzoo.core.registry import methods
from reflectzoo.parity.compare import Comparison
from reflectzoo.parity.fixture import Case, Fixture

_PLACES = ("reflectzoo.nets", "reflectzoo.losses", "reflectzoo.metrics", "reflectzoo.data.synthesis")


@dataclass
class CaseResult:
    """What came of one recorded case.

    Args:
        comparisons: at least one.
        note: something a reader of the report should know, e.g. what was left out.
    """

    comparisons: Sequence[Comparison]
    note: str = field(default="")


class Runner(Protocol):
    """Computes the cases of some recordings."""

    def matches(self, fixture: Fixture) -> bool:
        """Whether the recording is of something that this runner computes; judged by content, not by file name."""
        ...

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        """Prepare (build the network, load its weights) and return what runs one case of the recording.

        Raises:
            ParityError: if the recording does not fit; then all its cases fail.
        """
        ...


def find_runners() -> list[Runner]:
    """The ``RUNNERS`` of every module ``parity``: of each method, and of nets, losses, metrics and synthesis."""
    return [runner for name in _modules() for runner in importlib.import_module(name).RUNNERS]


def _modules() -> Iterator[str]:
    yield from (method.parity for method in methods().values() if method.parity is not None)
    yield from (f"{package}.parity" for package in _PLACES if find_spec(f"{package}.parity") is not None)
