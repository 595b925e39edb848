"""Code shared by runners of networks: weights by the rule, the VGG of the recordings, intermediate tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from reflectzoo.nets.vgg import VGG19, load_vgg19
from reflectzoo.parity.compare import Comparison, compare_recorded
from reflectzoo.parity.fixture import Case, Fixture, ParityError
from reflectzoo.parity.rule import build_state_dict, rule_state_dict


def load_recorded_weights(module: nn.Module, fixture: Fixture, part: str = "") -> None:
    """Load the rule's weights under the authors' keys, which must match the module's exactly, including their order.

    Args:
        module: filled in place.
        fixture: with the list ``state_dict`` or ``state_dict_<part>``.
        part: name of the network, in a recording of several.

    Raises:
        ParityError: if there is no such list, or a checksum, a key, the order or a shape differs.
    """
    records = fixture.data.get(f"state_dict_{part}" if part else "state_dict")
    if not records:
        raise ParityError(f"{fixture.stem}.json lists no {f'state_dict_{part}' if part else 'state_dict'}")
    hashes = fixture.data.get("weights") or {}
    state = build_state_dict(records, hashes.get(f"{part}_sha256" if part else "sha256"))
    ours = module.state_dict()
    missing, extra = [key for key in ours if key not in state], [key for key in state if key not in ours]
    if missing or extra:
        raise ParityError(
            f"the authors' keys do not fit {type(module).__name__}: {len(missing)} of ours are not recorded"
            f"{_first(missing)}, {len(extra)} recorded are not ours{_first(extra)}"
        )
    if list(ours) != list(state):
        at = next(a for a, b in zip(ours, state, strict=True) if a != b)
        raise ParityError(f"the authors' keys come in another order, from '{at}' on")
    wrong = [key for key in ours if ours[key].shape != state[key].shape]
    if wrong:
        key = wrong[0]
        raise ParityError(f"'{key}' is {tuple(ours[key].shape)}, but {tuple(state[key].shape)} is recorded")
    module.load_state_dict(state, strict=True)


def _first(keys: list[str]) -> str:
    return f" (first '{keys[0]}')" if keys else ""


def check_parameter_count(module: nn.Module, fixture: Fixture, part: str = "") -> None:
    """Check that a module has the recorded number of parameters, without buffers.

    Args:
        module: whose parameters are counted.
        fixture: with the number, or one per part; if it has none, nothing is checked.
        part: name of the network, in a recording of several.

    Raises:
        ParityError: if the numbers differ, naming both.
    """
    wanted = fixture.data.get("parameter_count")
    if part and isinstance(wanted, Mapping):
        wanted = wanted.get(part)
    found = sum(parameter.numel() for parameter in module.parameters())
    if wanted is not None and found != wanted:
        raise ParityError(f"{type(module).__name__} has {found} parameters, but {wanted} are recorded")


@lru_cache(maxsize=2)
def rule_vgg(dtype: torch.dtype = torch.float32) -> VGG19:
    """The VGG-19 of all recordings, with the rule's weights of gain sqrt(2). Cached: do not modify it."""
    vgg = load_vgg19("random")
    vgg.load_state_dict(rule_state_dict(vgg, gain=sqrt(2)))
    return vgg.to(dtype)


@contextmanager
def watched(net: nn.Module, case: Case) -> Iterator[dict[str, Any]]:
    """Record the outputs of the modules listed under ``intermediate``.

    Yields:
        Module name -> its first output, filled during the forward pass; without modules that our network lacks.
    """
    seen: dict[str, Any] = {}

    def note(name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # Clone, since the caller of the module may modify the output in place.
            seen.setdefault(name, output.clone() if isinstance(output, Tensor) else output)

        return keep

    modules = dict(net.named_modules())
    names = {str(spec["module"]) for spec in case.get("intermediate") or []}
    hooks = [modules[name].register_forward_hook(note(name)) for name in names if name in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def compare_intermediates(
    fixture: Fixture, case: Case, seen: Mapping[str, Any], tolerance: float
) -> tuple[list[Comparison], int]:
    """Compare the intermediate tensors recorded by :func:`watched`.

    Args:
        fixture: contains the arrays.
        case: lists the tensors.
        seen: module name -> output, a tensor or a sequence of tensors.
        tolerance: absolute, as for the case's outputs. Since features are not in [0, 1], their differences are divided
            by the largest recorded absolute value if it exceeds 1.

    Returns:
        The comparisons, and the number of recorded tensors without a counterpart in our network.

    Raises:
        ParityError: if a shape differs.
    """
    comparisons: list[Comparison] = []
    absent = 0
    for spec in case.get("intermediate") or []:
        output = seen.get(str(spec["module"]))
        index = int(spec.get("output_index", 0))
        tensor = output[index] if isinstance(output, tuple | list) and index < len(output) else output
        if not isinstance(tensor, Tensor):
            absent += 1
            continue
        stats = spec.get("stats") or {}
        scale = max(1.0, abs(stats.get("min", 1.0)), abs(stats.get("max", 1.0)))
        for compared in compare_recorded(fixture, spec, f"{spec['module']}[{index}]", tensor, tolerance):
            comparisons.append(Comparison(compared.what, compared.difference / scale, tolerance))
    return comparisons, absent
