"""Old names in files of weights lead to what they meant."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec

import pytest
from tests.conftest import REPOSITORY

from reflectzoo.core.registry import find_network
from reflectzoo.weights.moved import MOVED


def exists(name: str) -> bool:
    module, _, symbol = name.rpartition(".")
    try:
        return find_spec(module) is not None and hasattr(import_module(module), symbol)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("old", MOVED)
def test_the_old_name_is_free_and_the_new_one_exists(old: str) -> None:
    assert not exists(old)
    assert exists(MOVED[old])


def test_no_configuration_uses_an_old_name() -> None:
    used = {
        name
        for file in (REPOSITORY / "conf").rglob("*.yaml")
        for name in re.findall(r"_target_: *([\w.]+)", file.read_text(encoding="utf-8"))
    }
    assert not used & set(MOVED)


def test_every_new_name_is_a_network_that_a_method_registers() -> None:
    assert all(find_network(new) is not None for new in MOVED.values())
