"""Old names in stored configurations lead to what they meant."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec

import pytest
from tests.conftest import REPOSITORY

from reflectzoo.config import build_from_record
from reflectzoo.weights.moved import MOVED, with_current_names


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


def test_a_stored_configuration_is_built_from_where_things_are_now() -> None:
    record = {
        "_target_": "reflectzoo.losses.composite.CompositeLoss",
        "terms": {"si": {"_target_": "reflectzoo.losses.ssim.StructureLoss", "scale": 0.25}},
        "list": [{"_target_": "reflectzoo.losses.statistic.StatisticLoss"}],
    }
    assert with_current_names(record)["list"][0]["_target_"] == "reflectzoo.methods.corrn.statistic.StatisticLoss"
    assert record["list"][0]["_target_"].startswith("reflectzoo.losses."), "the record itself is left as it was"
    del record["list"]
    assert build_from_record(record).terms["si"].scale == 0.25
