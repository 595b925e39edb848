"""What ``reflectzoo new`` writes works as it is, and docs/methods.md shows just that."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.conftest import REPOSITORY, command

import reflectzoo
from reflectzoo.__main__ import main
from reflectzoo.core import registry
from reflectzoo.errors import UserError
from reflectzoo.methods.new import new_method

QUICK = ("trainer.accelerator=cpu", "data.crop=32", "data.eval_crop=32", "data.batch_size=2", "model.net.width=4")


def shown(file: str) -> list[list[str]]:
    """The first commands in the section "Add a method" of a page, one list of words each."""
    section = re.search(
        r"^## Add a method\n(.*?)(?=^## |\Z)", (REPOSITORY / file).read_text(encoding="utf-8"), re.M | re.S
    )
    assert section is not None
    block = re.search(r"^```\n(.*?)^```", section[1], re.M | re.S)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[1].splitlines() if line.strip()]


def test_notebook_and_readme_show_the_same() -> None:
    cells = json.loads((REPOSITORY / "notebooks/3_add_your_own_method.ipynb").read_text(encoding="utf-8"))["cells"]
    block = re.search(r"^```\n(.*?)^```", "".join(cells[-1]["source"]), re.M | re.S)
    assert block is not None
    there = [shlex.split(line.replace("residual", "ghost")) for line in block[1].splitlines()]
    assert there == shown("docs/methods.md") == shown("README.md")


def test_a_package_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, installed, trained, removed = shown("docs/methods.md")
    monkeypatch.chdir(tmp_path)
    assert made[:3] == ["reflectzoo", "new", "method"]
    assert main(made[1:]) == 0
    name = made[3]
    assert installed[:3] == ["pip", "install", "-e"]
    # Not into the environment of the tests.
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", "site")
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, installed[3]], check=True, capture_output=True)
    monkeypatch.syspath_prepend("site")
    registry.methods.cache_clear()
    try:
        words = trained[3:] if trained[0] == "python" else trained[2:]
        monkeypatch.setattr(sys, "argv", ["train", *words, *QUICK, "hydra.run.dir=run"])
        with pytest.raises(SystemExit) as stop:
            importlib.import_module("reflectzoo.train").main()
        assert stop.value.code == 0
        found = reflectzoo.load_model("run/checkpoints/last.ckpt")
        assert (found.name, found.method.package) == (name, name)
        assert found(torch.rand(1, 3, 5, 7))["transmission"].shape == (1, 3, 5, 7)
        assert removed[:3] == ["reflectzoo", "remove", "photo.jpg"]
        assert removed[3:5] == ["--model", name] or "--weights" in removed
    finally:
        monkeypatch.undo()
        registry.methods.cache_clear()


@pytest.mark.slow
def test_a_folder_of_the_zoo(tmp_path: Path) -> None:
    for part in ("src", "conf"):
        shutil.copytree(REPOSITORY / part, tmp_path / part)
    path = str(tmp_path / "src")
    done = command("reflectzoo", "new", "method", "ghost", cwd=tmp_path, PYTHONPATH=path)
    assert done.status == 0, done.err
    done = command("reflectzoo.train", "model=ghost", "trainer=fast", *QUICK, cwd=tmp_path, PYTHONPATH=path)
    assert done.status == 0, done.err
    file = next(tmp_path.glob("outputs/ghost/*/checkpoints/last.ckpt"))
    done = command("reflectzoo", "convert", str(file), "-o", "ghost.safetensors", cwd=tmp_path, PYTHONPATH=path)
    assert "model=ghost" in done.out


@pytest.mark.parametrize(("name", "words"), [("Ghost", "lower-case"), ("class", "not a valid"), ("lite", "already")])
def test_names_that_will_not_do(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        new_method(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    new_method("ghost", tmp_path)
    with pytest.raises(UserError, match="already exists"):
        new_method("ghost", tmp_path)
