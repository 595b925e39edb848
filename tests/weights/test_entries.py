"""Every entry that takes a file of weights, given files that want a command to be run."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import reflectzoo
from reflectzoo.__main__ import main
from reflectzoo.errors import UserError
from reflectzoo.inference.commands import demo

#: What F1 of the review ran.
SHELL = {"_target_": "torch.utils.collect_env.run", "command": "touch RAN", "x": "${oc.env:HOME}"}
PARTIAL = {"_target_": "os.system", "_args_": ["touch RAN"], "_partial_": False}


def record(model: str, version: int) -> dict[str, Any]:
    if version == 2:
        return {"version": 2, "model": model, "network": SHELL["_target_"], "settings": {"width": SHELL}, "phase": 0}
    config = {**SHELL, "name": model, "net": {**SHELL, "width": PARTIAL}, "loss": [PARTIAL], "optimizer": PARTIAL}
    return {"model": model, "config": config, "phase": 0, "vgg": {"source": "random", "fingerprint": "0"}}


KINDS = ("ckpt-1", "ckpt-2", "safetensors-1", "safetensors-2")
each_kind = pytest.mark.parametrize("kind_and_version", KINDS)


@pytest.fixture
def hostile(kind_and_version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a file that says it is of a model; afterwards nothing may have run."""
    kind, _, version = kind_and_version.partition("-")
    monkeypatch.chdir(tmp_path)

    def write(model: str) -> str:
        name = f"hostile.{kind}"
        said, state = record(model, int(version)), {"net.a": torch.zeros(1)}
        if kind == "ckpt":
            torch.save({"state_dict": state, "optimizer_states": [], "reflectzoo": said}, name)
        else:
            save_file(state, name, {"format": "reflectzoo", "record": json.dumps(said)})
        return name

    return write


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path) -> Any:
    yield
    assert not list(tmp_path.rglob("RAN"))


@each_kind
def test_loading(hostile: Callable[[str], str]) -> None:
    with pytest.raises(UserError):
        reflectzoo.load_model(hostile("lite"))
    with pytest.raises(UserError):
        reflectzoo.load_model("lite", hostile("lite"))


@each_kind
@pytest.mark.parametrize("words", [("remove", "a.png"), ("convert",), ("export", "a.onnx")], ids=lambda words: words[0])
def test_commands(hostile: Callable[[str], str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    file = hostile("lite")
    option = (file, "-o", "b.safetensors") if words[0] == "convert" else ("--weights", file)
    assert main([*words, *option]) == 2
    told = capsys.readouterr().err
    assert told.startswith("reflectzoo: ")
    assert told.count("\n") == 1
    assert "is not opened" in told


@each_kind
def test_the_demo(hostile: Callable[[str], str]) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(UserError, match="is not opened"):
        demo._separators(parser.parse_args(["--weights", hostile("lite")]))


ENTRIES = [
    ("evaluate", "lite", ("benchmark=sample", "limit=1", "ckpt={}")),
    ("evaluate", "lite", ("benchmark=sample", "limit=1", "model=lite", "weights={}")),
    ("train", "ytmt_pcs", ("model=ytmt_pcs", "loss=pixel", "ckpt_path={}")),
    ("train", "lite", ("model=lite", "weights={}")),
    ("train", "ytmt_ucs", ("model=ytmt_uct", "model.net.hypercolumn=false", "loss=pixel", "model.stage1_ckpt={}")),
    ("train", "location_aware", ("model=location_aware", "loss=pixel", "model.stage1_ckpt={}")),
    ("train", "dynamics_teacher", ("model=dynamics_student", "data=sample", "model.teacher_ckpt={}")),
    ("train", "lite", ("model=ytmt_ucs", "model.vgg={}")),
    ("train", "lite", ("model=corrn", "model.net.width=64", "model.encoder={}", "model.vgg=random")),
]


@pytest.mark.parametrize("kind_and_version", ["ckpt-1", pytest.param("safetensors-2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("program", "model", "words"), ENTRIES, ids=lambda each: str(each).split("=")[-1][:12])
def test_programs(
    hostile: Callable[[str], str],
    program: str,
    model: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = hostile(model)
    given = [word.format(file) for word in words]
    small = ["data.crop=32", "data.eval_crop=32", "trainer.max_epochs=1"] if program == "train" else []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [program, "hydra.run.dir=run", "trainer.accelerator=cpu", *small, *given])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"reflectzoo.{program}").main()
    assert stop.value.code == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("reflectzoo: ")]
    assert len(told) == 1
    assert "hostile" in told[0]
