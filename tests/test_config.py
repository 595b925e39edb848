"""Every configuration file composes, and every model can be made, from anywhere the package may be installed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from reflectzoo.config import build, build_parts, compose_config, config_dir
from reflectzoo.core.settings import check_tree
from tests.conftest import REPOSITORY, Run

MADE = ("loss", "optimizer", "scheduler", "data", "synthesis", "callbacks", "logger")
NARROW = ("model.net.width=8", "model.vgg=random")


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (Path(config_dir()) / group).glob("*.yaml") if not file.stem.startswith("_"))


@pytest.mark.parametrize(
    "choice",
    [f"{group}={name}" for group in (*MADE, "trainer", "experiment") for name in names(group)],
)
def test_every_choice_composes_and_can_be_made(choice: str, tmp_path: Path) -> None:
    config = compose_config([choice, f"run_dir={tmp_path}"])
    assert OmegaConf.to_container(config, resolve=True)
    group = choice.partition("=")[0]
    if group in ("loss", "synthesis", "data"):
        assert build(config[group]) is not None
    elif group in ("optimizer", "scheduler"):
        optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        if config.scheduler:
            assert build(config.scheduler)(optimizer).get_last_lr()
    elif group == "trainer":
        check_tree(config.trainer)
    elif group in ("callbacks", "logger"):
        assert all(build_parts(config[group], group, object)) or not config[group]


def test_overrides_in_the_pages_compose() -> None:
    pages = [REPOSITORY / "README.md", *REPOSITORY.glob("src/reflectzoo/methods/*/README.md")]
    train = re.compile(r"^(?:python -m reflectzoo\.|reflectzoo )train (.*)$", re.MULTILINE)
    lines = [
        line.split("#")[0].rstrip("\\ ")  # a line may go on in the next one
        for page in pages
        for line in train.findall(page.read_text(encoding="utf-8"))
    ]
    lines = [line for line in lines if "model=ghost" not in line]  # tests/methods/test_new.py makes that one
    assert len(lines) > 5
    for line in dict.fromkeys(lines):
        words = [word for word in shlex.split(line) if "=" in word and not word.startswith("-")]
        # One job of a sweep stands for all.
        words = [word.split(",")[0] if not re.search(r"=[\[{'\"]", word) else word for word in words]
        assert compose_config(words), line


def test_the_recipe_of_a_new_method_works_as_written(tmp_path: Path) -> None:
    """The YAML that CONTRIBUTING.md shows."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    recipe = re.sub(r"reflectzoo\.methods\.[\w.<>]+", "torch.nn.Identity", textwrap.dedent(found))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text(recipe.replace("<name>", "mine"), encoding="utf-8")
    config = compose_config([f"hydra.searchpath=[file://{tmp_path}]", "model=mine", "run_dir=x"])
    assert config.trainer.max_epochs == config.model.epochs
    assert build(config.model).make_scheduler is None


def test_a_model_of_the_user_s_own_from_a_folder_of_theirs(train: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("defaults: [ytmt_pcs, _self_]\nname: mine\nepochs: 7\n")
    done = train("--config-dir", "conf", "model=mine", "--cfg", "job", "--resolve", folder=None)
    assert done.status == 0, done.err
    assert "max_epochs: 7" in done.out


def test_the_wheel_carries_the_configuration(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    wheel = next(tmp_path.glob("*.whl"))
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    away = tmp_path / "elsewhere"
    away.mkdir()
    overrides = ("model=ytmt_ucs", "trainer=fast", *NARROW, "loss=pixel", "model.net.hypercolumn=false")
    small = ("data.crop=32", "data.eval_crop=32", "trainer.accelerator=cpu")
    code = "import reflectzoo.config as c; print(c.config_dir()); from reflectzoo.train import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides, *small],
        cwd=away,
        env={**os.environ, "PYTHONPATH": str(site), "HYDRA_FULL_ERROR": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]) == site / "reflectzoo" / "conf"
    assert list(away.glob("outputs/ytmt_ucs/*/metrics.json"))
