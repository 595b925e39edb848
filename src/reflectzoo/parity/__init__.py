"""Comparison with inputs and outputs recorded from the authors' programs: ``python -m reflectzoo.parity FOLDER``.

The folder contains pairs of ``<name>.json`` and ``<name>.npz`` in the format "sirr-parity/1". A package that implements
something recorded there has a module ``parity`` with a sequence ``RUNNERS`` (see
:class:`reflectzoo.parity.registry.Runner`), which is discovered automatically.
"""

from reflectzoo.parity.compare import (
    NETWORK_LIMIT,
    Comparison,
    compare_outputs,
    compare_recorded,
    compare_scalar,
    compare_stats,
    compare_tensor,
)
from reflectzoo.parity.fixture import Case, Fixture, ParityError, load_fixture, recorded_input
from reflectzoo.parity.network import (
    check_parameter_count,
    compare_intermediates,
    load_recorded_weights,
    rule_vgg,
    watched,
)
from reflectzoo.parity.registry import CaseResult, Runner, find_runners
from reflectzoo.parity.rule import build_state_dict, rule_state_dict

__all__ = [
    "NETWORK_LIMIT",
    "Case",
    "CaseResult",
    "Comparison",
    "Fixture",
    "ParityError",
    "Runner",
    "build_state_dict",
    "check_parameter_count",
    "compare_intermediates",
    "compare_outputs",
    "compare_recorded",
    "compare_scalar",
    "compare_stats",
    "compare_tensor",
    "find_runners",
    "load_fixture",
    "load_recorded_weights",
    "recorded_input",
    "rule_state_dict",
    "rule_vgg",
    "watched",
]
