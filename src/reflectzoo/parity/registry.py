"""Runners, which compute recorded cases, and their discovery."""

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
    """Result of one recorded case.

    Args:
        comparisons: at least one.
        note: remark for the report, e.g. on values that were skipped.
    """

    comparisons: Sequence[Comparison]
    note: str = field(default="")


class Runner(Protocol):
    """Interface of objects that compute the cases of certain recordings."""

    def matches(self, fixture: Fixture) -> bool:
        """Whether this runner can compute the recording; should depend on its content, not on its file name."""
        ...

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        """Prepare the computation (build the network, load its weights), and return a function that runs one case.

        Raises:
            ParityError: if the recording does not fit; then all its cases fail.
        """
        ...


def find_runners() -> list[Runner]:
    """The ``RUNNERS`` of all modules ``parity``: of methods, nets, losses, metrics and synthesis."""
    return [runner for name in _modules() for runner in importlib.import_module(name).RUNNERS]


def _modules() -> Iterator[str]:
    yield from (method.parity for method in methods().values() if method.parity is not None)
    yield from (f"{package}.parity" for package in _PLACES if find_spec(f"{package}.parity") is not None)
