"""Files of weights hold names and plain settings; nothing in them is ever run, whatever it looks like."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import reflectzoo
from reflectzoo.core.registry import methods
from reflectzoo.errors import UserError
from reflectzoo.weights.stored import InvalidRecord, check_stored_settings, parse_metadata, parse_record, stored_network

LITE = {"widths": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "stream_widths": [4, 4, 4], "stream_blocks": [1, 1, 1]}


def version_2(**changed: Any) -> dict[str, Any]:
    return {"version": 2, "model": "lite", "network": "LiteNet", "settings": LITE, "phase": 0, "vgg": None, **changed}


def version_1(net: Any = None, **changed: Any) -> dict[str, Any]:
    own = {"_target_": "reflectzoo.methods.lite.net.LiteNet", **LITE} if net is None else net
    config = {"_target_": "reflectzoo.core.module.ReflectionModule", "name": "lite", "net": own}
    return {"model": "lite", "config": config, "phase": 0, "vgg": None, **changed}


@pytest.mark.parametrize("record", [version_2(), version_1()], ids=["version 2", "version 1"])
def test_what_a_file_says(record: dict[str, Any]) -> None:
    stored = parse_record(record, "x")
    assert (stored.model, stored.method.name, stored.network, stored.phase) == ("lite_1", "lite", "LiteNet", 0)
    assert dict(stored.settings) == LITE
    assert parse_record(json.loads(json.dumps(stored.as_record())), "x") == stored


def test_every_former_path_of_a_network_is_understood() -> None:
    former = {
        "reflectzoo.methods.corrn.net.CoRRNNet": ("corrn", "corrn"),
        "reflectzoo.methods.location_aware.net.LocationAwareNet": ("location_aware", "location_aware"),
        "reflectzoo.methods.dynamics.net.DynamicsStudent": ("dynamics", "dynamics_student"),
        "reflectzoo.methods.dynamics.net.DynamicsTeacher": ("dynamics", "dynamics_teacher"),
        "reflectzoo.methods.dynamics.net.teacher_and_student": ("dynamics", "dynamics"),
        "reflectzoo.methods.ytmt.net.YTMTUNet": ("ytmt", "ytmt_ucs"),
        "reflectzoo.methods.ytmt.net.YTMTPlain": ("ytmt", "ytmt_pcs"),
        "reflectzoo.methods.ytmt.net.YTMTReleasedUNet": ("ytmt", "ytmt_ucs_old"),
        "reflectzoo.methods.ytmt.module.two_stage_unet": ("ytmt", "ytmt_uct"),
        "reflectzoo.methods.ytmt.module.two_stage_released": ("ytmt", "ytmt_uct_old"),
    }
    for target, (method, model) in former.items():
        stored = parse_record(version_1({"_target_": target, "width": 8}, model=model), "x")
        assert (stored.method.name, stored.network) == (method, target.rpartition(".")[2])


def test_the_record_of_a_training_is_understood() -> None:
    record = stored_network(
        "ytmt_pcs", {"_target_": "reflectzoo.methods.ytmt.net.YTMTPlain", "pattern": "C", "width": 8}
    )
    assert parse_record(record, "x").settings == {"pattern": "C", "width": 8}
    assert "network" not in stored_network("mine", {"_target_": "somewhere.Net"})
    assert "network" not in stored_network("mine", None)


SHELL = {"_target_": "torch.utils.collect_env.run", "command": "touch RAN"}
OTHER_CALLS: list[Any] = [
    SHELL,
    {"_target_": "torch.utils.collect_env.run", "_args_": ["touch RAN"]},
    {"_target_": "os.system", "_args_": ["touch RAN"]},
    {"_target_": "os.system", "_partial_": True, "command": "touch RAN"},
    {"_target_": ["os", "system"], "command": "touch RAN"},
    {"_target_": {"_target_": "hydra.utils.get_method", "path": "os.system"}},
    {"_target_": "hydra.utils.instantiate", "config": SHELL},
    {"_target_": "hydra.utils.get_object", "path": "os.system"},
    {"_target_": "pytorch_lightning.Trainer"},
    {"_target_": "reflectzoo.methods.lite.net"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet.load_state_dict"},
    {"_target_": "reflectzoo.core.registry.importlib.import_module", "name": "os"},
    {"_target_": "${oc.env:HOME}"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "widths": SHELL},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "widths": [SHELL, 8, 8, 8]},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "width": "${oc.env:HOME}"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "width": "${reflectzoo.run_dir:a,b,c,d,e}"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "_args_": [[8, 8, 8, 8]]},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "_partial_": True},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "_recursive_": True},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "_convert_": "all"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "negative": {"_target_": "os.getcwd"}},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "width": 8.5},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "width": True},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "width": "8"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "widths": "8888"},
    {"_target_": "reflectzoo.methods.lite.net.LiteNet", "self": 8},
    {"_target_": "reflectzoo.methods.dynamics.net.teacher_and_student", "teacher": SHELL},
    {"_target_": "reflectzoo.methods.dynamics.net.teacher_and_student", "student": {"blocks": SHELL}},
    ["reflectzoo.methods.lite.net.LiteNet"],
    "reflectzoo.methods.lite.net.LiteNet",
    None,
]


def attacks() -> list[dict[str, Any]]:
    """Records, of both versions, that want something to be called or made of what is none."""
    found = [version_1(net if net is not None else {}) for net in OTHER_CALLS]
    found += [{**version_1(), "config": net} for net in OTHER_CALLS]
    for net in OTHER_CALLS:
        if isinstance(net, Mapping):
            settings = {key: value for key, value in net.items() if key != "_target_"} or {"x": 1}
            known = str(net.get("_target_")).startswith("reflectzoo.methods.lite.net.LiteNet")
            found.append(version_2(settings=settings if known else dict(net)))
            found.append(version_2(network=net.get("_target_")))
    found += [
        version_2(settings=[]), version_2(settings="x"), version_2(model=["lite"]), version_2(model={"_target_": "x"}),
        version_2(model="../lite"), version_2(model="corrn"), version_2(network="METHOD"), version_2(network=None),
        version_2(phase=1), version_2(phase="0"), version_2(phase=-1), version_2(phase=True), version_2(version=3),
        version_2(version=None), version_2(vgg="imagenet"), version_2(vgg={"source": SHELL}),
        version_2(vgg={"source": "random", "fingerprint": 3}), version_2(settings={"width": math.inf}),
    ]  # fmt: skip
    return found


ATTACKS = attacks()


@pytest.mark.parametrize("number", range(len(ATTACKS)))
def test_nothing_in_a_file_has_any_effect(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = ATTACKS[number]
    before = [{key: each for key, each in vars(method).items() if key != "folder"} for method in methods().values()]
    save_file({"a": torch.zeros(1)}, "a.safetensors", {"format": "reflectzoo", "record": json.dumps(record)})
    torch.save({"state_dict": {"net.a": torch.zeros(1)}, "reflectzoo": record}, "a.ckpt")
    for file in ("a.safetensors", "a.ckpt"):
        with pytest.raises(UserError) as told:
            reflectzoo.load_model(file)
        text = str(told.value)
        assert text.count("\n") == 0
        assert text.startswith(f"'{file}' is not opened: ") or "may be damaged: download it again" in text
        assert len(text) < 400
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.ckpt", "a.safetensors"]
    assert before == [{key: each for key, each in vars(m).items() if key != "folder"} for m in methods().values()]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"model":' * 50_000 + "1" + "}" * 50_000,
        "",
        "{",
        "3",
        "null",
        '"lite"',
        "[]",
        "NaN",
    ],
)
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "reflectzoo", "record": text})
    with pytest.raises(UserError, match="does not say which model it holds and may be damaged: download it again"):
        reflectzoo.load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": [10**14, 8, 8, 8]}, "cannot be built"),  # more than any memory
        ({"widths": [4_000, 8, 8, 8]}, "far more parameters than the file holds"),
        ({"blocks": [1, 1, 1, 10**9]}, "far more parameters than the file holds"),
    ],
)
def test_a_network_of_any_size_is_not_built(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    record = json.dumps(version_2(settings={**LITE, **settings}))
    save_file({"tail.bias": torch.zeros(3)}, tmp_path / "huge.safetensors", {"format": "reflectzoo", "record": record})
    start = time.process_time()
    with pytest.raises(UserError, match=f"huge.safetensors' is not opened: .*{words}"):
        reflectzoo.load_model(tmp_path / "huge.safetensors")
    assert time.process_time() - start < 20


def test_settings_nested_deeply() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(UserError, match="nested too deeply"):
        parse_record(version_2(settings={"widths": deep}), "x")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_metadata("[" * 100_000)


class Network(nn.Module):
    def __init__(self, width: int, scale: float = 1.0, names: list[str] | None = None, free=None, *rest, **more):  # type: ignore[no-untyped-def] # fmt: skip
        super().__init__()


@pytest.mark.parametrize(
    "settings", [{"width": 1}, {"scale": 2}, {"names": ["a"]}, {"names": None}, {"free": {"a": [1]}}, {"free": "x"}]
)
def test_settings_that_are_arguments(settings: dict[str, Any]) -> None:
    check_stored_settings(Network, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 1.0},
        {"width": None},
        {"scale": "1"},
        {"names": "ab"},
        {"names": [1]},
        {"rest": 1},
        {"more": 1},
        {"x": 1},
    ],
)
def test_settings_that_are_none(settings: dict[str, Any]) -> None:
    with pytest.raises((InvalidRecord, UserError), match=next(iter(settings))):
        check_stored_settings(Network, settings)
