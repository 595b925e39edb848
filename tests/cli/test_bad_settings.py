"""Every bad setting is one sentence that names it, before anything is built or written."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer

from reflectzoo.cli import sentence, user_sentences
from reflectzoo.config import build_part, build_parts, compose_config
from reflectzoo.errors import Interrupted, TrainingError, UserError
from reflectzoo.training.run import check_settings

BAD = {
    "optimizer.lr=": "optimizer.lr",
    "optimizer.lr=-1": "optimizer.lr",
    "optimizer.lr=abc": "optimizer.lr",
    "optimizer.lr=1e38": "optimizer.lr",
    "optimizer.lr=nan": "optimizer.lr",
    "optimizer.betas=[2,3]": "optimizer.betas",
    "data.crop=99999999": "data.crop",
    "data.batch_size=2.5": "data.batch_size",
    "data.batch_size=0": "data.batch_size",
    "data.samples_per_epoch=-1": "data.samples_per_epoch",
    "data.cache_mb=null": "data.cache_mb",
    "data.patches=2.5": "data.patches",
    "seed=-1": "seed",
    "seed=null": "seed",
    "seed=4294967296": "seed",
    "trainer.max_epochs=2.5": "trainer.max_epochs",
    "trainer.devices=abc": "trainer.devices",
    "trainer.check_val_every_n_epoch=0": "trainer.check_val_every_n_epoch",
    "ckpt_path=3": "ckpt_path",
    "weights=[lite]": "weights",
    "compile=3": "compile",
    "run_dir=null": "run_dir",
    "data.synthesis=ceilnet": "data.synthesis",
    "model.loss=pixel": "model.loss",
    "model.optimizer=3": "model.optimizer",
    "model.scheduler=[cosine]": "model.scheduler",
    "data.crop=[[1,[2]]]": "data.crop",
    "data.batch_size={a: 1}": "data.batch_size",
    "data.crop=inf": "data.crop",
    "data.crop=1e400": "data.crop",
    "data.crop='ü'": "data.crop",
    "optimizer.betas=[nan,0.9]": "optimizer.betas",
    "optimizer.betas=[]": "optimizer.betas",
    "trainer.gradient_clip_val=nan": "trainer.gradient_clip_val",
    "+trainer.limit_train_batches=-1": "trainer.limit_train_batches",
    "callbacks.interrupt.every_minutes=0": "callbacks.interrupt.every_minutes",
    "test=maybe": "test",
    "model.net=null": "model.net",
    "model.loss=null": "model.loss",
    "model.optimizer=null": "model.optimizer",
    "data.eval_crop=3": "data.eval_crop",
    "data.samples_per_epoch=99999999999999999999": "data.samples_per_epoch",
    "+trainer.val_check_interval=0": "trainer.val_check_interval",
    "+logger.csv.flush_logs_every_n_steps=0": "logger.csv.flush_logs_every_n_steps",
    "model.accumulate=-1": "model.accumulate",
    "model.clip_grad_norm=-1": "model.clip_grad_norm",
    "model.name=null": "model.name",
}


@pytest.mark.parametrize("word", BAD)
def test_of_a_training(word: str) -> None:
    config = compose_config(["model=ytmt_pcs", "run_dir=run", word])
    with pytest.raises(UserError, match=f"^{re.escape(BAD[word])} must be .*, got "):
        check_settings(config)


def test_the_settings_as_they_are_hold() -> None:
    for model in ("ytmt_uct", "lite", "dynamics", "location_aware", "corrn"):
        check_settings(compose_config([f"model={model}", "callbacks=ema", "run_dir=run"]))


@pytest.mark.parametrize(
    "words",
    [
        ["--overwrite=no"],
        ["--strength", "abc"],
        ["--strength", "1.5"],
        ["--backend", "abc"],
        ["--precision", "8"],
        ["--device", "abc"],
    ],
    ids=" ".join,
)
def test_of_a_removal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from reflectzoo.__main__ import main

    try:
        status = main(["remove", "a.png", *words])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert told.strip()


@pytest.mark.parametrize("memory", ["-1", "0", "", "many"])
def test_of_an_amount_of_memory(memory: str) -> None:
    from reflectzoo.inference.separator import parse_bytes

    with pytest.raises(UserError, match="not an amount of memory"):
        parse_bytes(memory)


def test_of_an_override_and_an_opset() -> None:
    from reflectzoo.inference.load import load

    with pytest.raises(UserError, match="'nope' is not a setting of a model: write KEY=VALUE"):
        load("lite", None, ("nope",))
    pytest.importorskip("onnx")
    from reflectzoo.inference.export import export

    with pytest.raises(UserError, match="opset must lie between 18 and"):
        export(None, Path("a.onnx"), opset=99)  # type: ignore[arg-type]


def test_of_parts_that_are_none() -> None:
    bad = {
        "callbacks.best": "abc",
        "logger.csv": 3,
        "data": {"_target_": "builtins.dict"},
        "trainer": {"crop": 3},
    }
    for path, given in bad.items():
        with pytest.raises(UserError, match=f"^{path} must be a "):
            build_part(OmegaConf.create(given) if isinstance(given, dict) else given, path, Trainer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^callbacks must be names, each with a section, got 3"):
        build_parts(3, "callbacks", Callback)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^trainer\.logger cannot be given: choose with logger="):
        check_settings(OmegaConf.create({"data": None, "model": None, "callbacks": None, "trainer": {"logger": 3}}))


def test_of_ctrl_c_that_came_out_as_something_else() -> None:
    error = UnboundLocalError("cannot access local variable 'old'")  # OmegaConf's, within a finally
    error.__context__ = KeyboardInterrupt()
    assert sentence(error, []) == ("Interrupted.", 130)


def test_of_memory_that_ran_out() -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")):
        told = sentence(error, [])
        assert told is not None
        assert told[0].startswith("Memory ran out")
    assert sentence(RuntimeError("shapes differ"), []) is None


def test_of_a_port_and_threads() -> None:
    from reflectzoo.inference.commands import demo

    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(UserError, match=r"^--port must be null or a whole number from 1 to 65535, got 99999"):
        demo.run(parser.parse_args(["--port", "99999"]))


def test_of_a_name_that_no_file_can_have(tmp_path: Any) -> None:
    with pytest.raises(OSError, match="too long") as error:
        (tmp_path / ("x" * 300)).write_text("")
    assert sentence(error.value, []) == (f"The name '{'x' * 40}…' of 300 characters is too long: use a shorter one.", 2)


@pytest.mark.parametrize("kind", [UserError, TrainingError, Interrupted])
def test_what_is_a_sentence_already_keeps_its_status(kind: type[Exception]) -> None:
    """``reflectzoo tune`` trains within this, and ends with 130 after Ctrl-C."""
    with pytest.raises(kind, match="as it is") as error, user_sentences("model=lite"):
        raise kind("as it is")
    assert error.type is kind
