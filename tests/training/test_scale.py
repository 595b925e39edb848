"""From one core to many devices: what must not depend on how many there are, nor on how numbers are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from tests.conftest import TINY, TINY_GAN, Run, command, in_two_processes
from tests.faults.children import Child, preload, started_by_torchrun
from tests.test_ddp import curves
from torch import nn

from reflectzoo.config import build, compose_config
from reflectzoo.core import registry
from reflectzoo.core.ranks import external_rank, share_choice
from reflectzoo.errors import UserError
from reflectzoo.metrics.layers import LayerMetrics
from reflectzoo.nets.batchnorm import SharedBatchNorm2d, share_batch_norm
from reflectzoo.training.devices import start_compiling, unify_trainer_settings
from reflectzoo.training.profiling import TIMED_PARTS, PartsProfiler

Train = Callable[..., Run]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


# -- batch normalisation ----------------------------------------------------------------------------------------------


def _normalised(part: slice) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 5, 7, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 2.0]).view(-1, 1, 1, 1)
    layer = nn.BatchNorm2d(3, momentum=0.3)
    share_batch_norm(layer)
    outputs = layer(images[part])
    (outputs.pow(3) * torch.arange(7.0)).mean().backward()
    assert layer.weight.grad is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return [outputs.detach(), layer.weight.grad, layer.running_mean, layer.running_var]


def _half(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_normalised(slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_batch_normalisation_sees_the_batch_of_all_processes(tmp_path: Path) -> None:
    in_two_processes(_half, str(tmp_path))
    one = _normalised(slice(0, 4))
    two = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([each[0] for each in two]), one[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((two[0][1] + two[1][1]) / 2, one[1], rtol=1e-4, atol=1e-4)
    for place in (2, 3):
        torch.testing.assert_close(two[0][place], one[place], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(two[1][place], one[place], rtol=1e-5, atol=1e-6)


def _scored(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metrics = LayerMetrics()
    if rank == 0:
        image = torch.full((2, 3, 16, 16), 0.5)
        known = torch.tensor([True, True])
        batch = {"mixture": image, "transmission": image + 0.1, "has_transmission": known, "has_reflection": ~known}
        metrics.update({"transmission": image}, batch)  # type: ignore[arg-type, typeddict-item]
    torch.save(metrics.compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_process_without_a_picture_takes_part_in_the_score(tmp_path: Path) -> None:
    in_two_processes(_scored, str(tmp_path))
    for rank in range(2):
        scores = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert float(scores["psnr"]) == pytest.approx(20.0, abs=1e-4)
        assert 0 < float(scores["ssim_gaussian11"]) < 1


def test_alone_it_is_pytorchs_own() -> None:
    plain = nn.BatchNorm2d(3)
    shared = nn.BatchNorm2d(3)
    assert share_batch_norm(nn.Sequential(shared)) == 1
    assert type(shared) is SharedBatchNorm2d
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(plain(image), shared(image))
    assert plain.state_dict().keys() == shared.state_dict().keys()


# -- float16 ----------------------------------------------------------------------------------------------------------


class Scaled(pl.plugins.MixedPrecision):
    """float16's loss scaling without float16, for CPUs on which that is slow."""

    def __init__(self, growth_interval: int) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=growth_interval)
        super().__init__("16-mixed", "cpu", scaler)

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast("cpu", enabled=False)


def _trained(tmp_path: Path, *overrides: str, plugins: list[Any]) -> dict[str, torch.Tensor]:
    config = compose_config(
        ["model=ytmt_pcs", "~loss.terms.perceptual", "~loss.terms.exclusion", *TINY, *TINY_GAN, *overrides]
    )
    pl.seed_everything(1, verbose=False)
    model = build(config.model)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, plugins=plugins,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, build(config.data))
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def test_loss_scaling_changes_nothing_for_either_optimiser(tmp_path: Path) -> None:
    """With clipping and accumulation; a scale that grows between two batches must not weigh one of them more."""
    asked: tuple[str, ...] = (
        "model.accumulate=2",
        "model.clip_grad_norm=0.01",
        "data.batch_size=1",
        "data.samples_per_epoch=8",
        "optimizer._target_=torch.optim.SGD",
    )
    asked = (*asked, "~optimizer.betas", "optimizer.lr=1.0")
    plain = _trained(tmp_path, *asked, plugins=[])
    start = _trained(tmp_path, *asked, "optimizer.lr=0.0", plugins=[])
    moved = [key for key in plain if plain[key].is_floating_point() and not torch.equal(plain[key], start[key])]
    assert any("discriminator" in key for key in moved)
    assert any(key.startswith("net.") for key in moved)
    for growth in (1000, 1):  # steady, and a scale that grows in every step
        scaled = _trained(tmp_path, *asked, plugins=[Scaled(growth)])
        for key in moved:
            torch.testing.assert_close(scaled[key], plain[key], rtol=1e-4, atol=1e-6, msg=f"{growth} {key}")


# -- one way to ask ---------------------------------------------------------------------------------------------------


def test_accumulation_and_clipping_reach_methods_with_several_optimisers() -> None:
    config = compose_config(["model=ytmt_pcs", "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5"])
    unify_trainer_settings(config)
    assert (config.model.accumulate, config.model.clip_grad_norm) == (3, 0.5)
    assert (config.trainer.accumulate_grad_batches, config.trainer.gradient_clip_val) == (1, None)
    config = compose_config(["model=corrn", "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5"])
    unify_trainer_settings(config)
    assert (config.trainer.accumulate_grad_batches, config.trainer.gradient_clip_val) == (3, 0.5)
    with pytest.raises(UserError, match="contradict each other"):
        unify_trainer_settings(
            compose_config(["model=ytmt_pcs", "trainer.accumulate_grad_batches=3", "model.accumulate=2"])
        )


def test_float16_leaves_fused_optimisers_out() -> None:
    config = compose_config(["model=lite", "trainer.precision=16-mixed", "trainer.accelerator=gpu"])
    unify_trainer_settings(config)
    assert config.trainer.precision == "16-mixed"
    assert config.optimizer.fused is False
    assert config.model.optimizer.fused is False


def test_a_cpu_trains_in_bfloat16_instead_of_float16() -> None:
    config = compose_config(["model=lite", "trainer.precision=16-mixed", "trainer.accelerator=cpu"])
    unify_trainer_settings(config)
    assert config.trainer.precision == "bf16-mixed"
    assert config.optimizer.fused


def test_fsdp_is_refused_where_it_does_not_serve(train: Train) -> None:
    run = train("model=ytmt_pcs", *TINY, "trainer=fsdp", "trainer.accelerator=cpu", "loss=pixel")
    assert run.status == 2
    assert "use trainer=ddp" in run.sentence
    run = train("model=lite", *TINY, "trainer=fsdp", "trainer.accelerator=cpu", "callbacks=ema")
    assert run.status == 2
    assert "callbacks=ema" in run.sentence
    run = train("model=lite", *TINY, "trainer=fsdp", "trainer.accelerator=cpu")
    assert run.status == 2
    assert "across GPUs, with trainer.accelerator=gpu: use trainer=ddp on CPUs" in run.sentence


# -- compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "method",
    [
        ("model=ytmt_uat", "model.net.hypercolumn=false", "model.stage1_epochs=1", "loss=pixel", "callbacks=ema"),
        ("model=ytmt_pcs", "~loss.terms.perceptual", "~loss.terms.exclusion", *TINY_GAN),
    ],
    ids=["two phases", "adversarial"],
)
def test_compiled_networks_leave_no_prefix_in_any_file(train: Train, method: tuple[str, ...]) -> None:
    common = (*method, *TINY, "data.samples_per_epoch=8", "++trainer.limit_train_batches=1", "test=false")
    plain = train(*common, folder="plain")
    compiled = train(*common, "compile=aot_eager", folder="compiled")
    assert plain.status == compiled.status == 0, compiled.err
    for name in ("best", "last"):
        one, other = (weights(run.folder / f"checkpoints/{name}.ckpt") for run in (plain, compiled))
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-5, msg=key)


def test_compile_says_what_it_takes() -> None:
    part = SimpleNamespace(compiled_parts=lambda: [])
    for wanted in (True, False, "max-autotune", "aot_eager"):
        start_compiling(part, wanted)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="compile=maybe is neither true nor false"):
        start_compiling(part, "maybe")  # type: ignore[arg-type]


def test_without_a_compiler_one_sentence_says_so(train: Train) -> None:
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        run = train("model=lite", "model.net.width=4", *TINY, "compile=true", "test=false")
    assert run.status == 2
    assert "needs a C++ compiler, and found none" in run.err
    assert "Traceback" not in run.err


# -- processes started by others --------------------------------------------------------------------------------------


def test_who_started_us() -> None:
    assert external_rank({}) is None
    assert external_rank({"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "8"}) == (3, 8)
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}
    assert external_rank(slurm) == (1, 4)
    assert external_rank(slurm | {"SLURM_JOB_NAME": "bash"}) is None
    # Lightning's own processes are told their folder on the command line.
    assert external_rank({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}) is None


ASK = """
import sys, time
from pathlib import Path
from reflectzoo.core.ranks import share_choice
print(share_choice(lambda: f"chosen at {time.time_ns()}", Path(sys.argv[1]), ("run",)))
"""


def test_tasks_of_slurm_agree_on_a_folder(tmp_path: Path) -> None:
    started = []
    for rank in (1, 0):
        slurm = {"SLURM_NTASKS": "2", "SLURM_PROCID": str(rank), "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}
        command = [sys.executable, "-c", ASK, str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **slurm}))
        time.sleep(0.5)
    answers = {each.communicate(timeout=60)[0] for each in started}
    assert len(answers) == 1
    assert answers.pop().startswith("chosen at")


def test_alone_everyone_chooses_anew(tmp_path: Path) -> None:
    choices = iter("ab")
    assert [share_choice(lambda: next(choices), tmp_path, ("alone",)) for _ in range(2)] == ["a", "b"]


@pytest.mark.slow
def test_torchrun_gives_one_folder_and_the_curve_of_one_process(tmp_path: Path) -> None:
    common = ("model=ytmt_pcs", "loss=pixel", *TINY, "data.samples_per_epoch=8", "test=false")
    one = command("reflectzoo.train", *common, "data.batch_size=4", "hydra.run.dir=one", cwd=tmp_path)
    two = command(
        *("torch.distributed.run", "--nproc-per-node=2", "--master-port=29613", "-m", "reflectzoo.train"),
        *(*common, "trainer=ddp"),
        cwd=tmp_path,
    )
    assert one.status == two.status == 0, one.err + two.err
    (run,) = (tmp_path / "outputs/ytmt_pcs").iterdir()
    first, second = (weights(folder / "checkpoints/last.ckpt") for folder in (tmp_path / "one", run))
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-5, atol=1e-5, msg=key)


# -- every method -----------------------------------------------------------------------------------------------------

_GAN = "loss.terms.adversarial.discriminator.width=8"
_SEQUENCES = ("data=sequences", "data.reflection_step=[2,4]")
METHODS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(registry.method_of("ytmt_uct").models, (_GAN, "loss.terms.adversarial.start_epoch=0")),
    "corrn": (),
    "lite": (),
    "lite_1": (),
    "location_aware": (_GAN, "model.detection_epochs=1", "~loss.terms.perceptual"),  # which wants larger crops
    "dynamics": (_GAN, *_SEQUENCES),
    "dynamics_teacher": _SEQUENCES,
    "dynamics_student": (),
    "errnet": (_GAN, "loss.terms.adversarial.start_epoch=1"),
    "dsrnet_l": (),
    "dsrnet_s": (),
    "ibcln": (_GAN, "model.net.dropout=0"),  # each process draws its own
    "bdn": (_GAN,),
}
"""Small, with a second phase or an adversary that begins in the second epoch, wherever a method has them."""
ALONE = {model: ["model.student_batch=2"] for model in ("dynamics", "dynamics_student")}
"""What one process has twice of, beside the batch: with two, the student takes steps of one sample of each."""
FREE = {"bdn": (".bias", ".running_mean")}
"""What nothing depends on: the gradient of a bias before a normalisation is rounding, of which Adam makes steps."""


def test_no_method_is_left_out() -> None:
    assert {*METHODS} == {model for method in registry.methods().values() for model in method.models}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # as tests/faults
@pytest.mark.parametrize("averaged", ["default", "ema"])
@pytest.mark.parametrize("model", METHODS)
def test_two_processes_give_the_curve_of_one(tmp_path: Path, model: str, averaged: str) -> None:
    """The real command as torchrun starts it, elsewhere, in double precision, where nothing but the order differs.

    Its processes are forked from this one, which saves them their imports; ``tests/test_ddp.py`` has the command that
    starts its second process itself, and above there is torchrun's own.
    """
    preload()
    words = [f"model={model}", *TINY, *registry.method_of(model).tiny_of(model), *METHODS[model], "test=false"]
    words += [f"callbacks={averaged}", "callbacks.panels=null", "trainer.precision=64-true", "data.num_workers=0"]
    words += ["data.samples_per_epoch=8"]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    alone = [*ALONE.get(model, ()), "data.batch_size=4", "hydra.run.dir=one"]
    one = Child("train", [*words, *alone], folder).result(900)
    assert one.status == 0, one.told
    for rank in started_by_torchrun("train", [*words, "data.batch_size=2", "trainer=ddp", "hydra.run.dir=two"], folder):
        ended = rank.result(900)
        assert ended.status == 0, ended.told
    single, double = curves(folder / "one"), curves(folder / "two")
    compared = [key for key in single if key.startswith(("train/", "val/"))]
    assert "train/total" in compared
    assert "val/mean/psnr" in compared
    for key in compared:
        assert double[key] == pytest.approx(single[key], rel=1e-5, abs=1e-5), key
    for name in ("last", "best"):
        first, second = (weights(folder / run / f"checkpoints/{name}.ckpt") for run in ("one", "two"))
        for key in [each for each in first if not each.endswith(FREE.get(model, ()))]:
            torch.testing.assert_close(second[key], first[key], rtol=1e-5, atol=1e-5, msg=f"{name} {key}")


# -- where the time goes ----------------------------------------------------------------------------------------------


def test_every_second_is_counted_once() -> None:
    profiler = PartsProfiler(warmup=0)

    def spend(action: str, inner: Callable[[], None] = lambda: None) -> None:
        profiler.start(action)
        time.sleep(0.01)
        inner()
        profiler.stop(action)

    def backward() -> None:
        spend("[LightningModule]Net.on_before_backward")
        time.sleep(0.03)
        spend("[Callback]Any.on_after_backward")

    def batch() -> None:
        spend("[Strategy]One.training_step", backward)
        spend("[LightningModule]Net.optimizer_step")

    def epoch() -> None:
        spend("[_TrainingEpochLoop].train_dataloader_next")
        spend("[LightningDataModule]Data.on_after_batch_transfer")
        spend("run_training_batch", batch)
        spend("[Callback]Any.on_validation_start")
        time.sleep(0.02)
        spend("[LightningModule]Net.on_validation_end")

    start = time.perf_counter()
    spend("[Callback]Any.setup")
    outside = time.perf_counter() - start
    start = time.perf_counter()
    spend("run_training_epoch", epoch)
    whole = time.perf_counter() - start
    assert outside > 0
    assert sum(profiler.seconds.values()) == pytest.approx(whole, abs=0.005)
    assert profiler.steps == 1
    assert set(profiler.seconds) == set(TIMED_PARTS)
    for part, least in {"wait": 0.01, "blend": 0.01, "forward": 0.01, "backward": 0.03, "optimizer": 0.01}.items():
        assert profiler.seconds[part] >= least, part
    assert profiler.seconds["validation"] >= 0.04


def test_bench_train_measures_and_names_what_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reflectzoo.bench.train import main

    small = ("model.net.width=8", "data.crop=32", "trainer.accelerator=cpu")
    words = [word for each in small for word in ("--set", each)]
    file = tmp_path / "speed.json"
    assert main(["lite", "dynamics_student", "--batches", "2", *words, "--json", str(file)]) == 1
    (speed,) = json.loads(file.read_text())["speeds"]
    assert (speed["model"], speed["steps"], speed["batch_size"]) == ("lite", 2, 1)
    assert speed["images_per_second"] > 0
    for part in ("blend", "forward", "backward", "optimizer", "logging"):
        assert speed["seconds"][part] > 0, part
    assert "dynamics_student: model=dynamics_student learns from a teacher" in capsys.readouterr().out
    assert main(["nothing"]) == 2
    assert "There is no model=nothing" in capsys.readouterr().err


@pytest.mark.parametrize("debug", ["fast", "one_batch", "overfit", "detect_anomaly"])
def test_the_debug_group_runs(train: Train, debug: str) -> None:
    extra = {
        "overfit": ("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2"),
        "fast": ("trainer.profiler=parts",),
    }
    tiny = tuple(each for each in TINY if not each.startswith("trainer.max_epochs"))
    panels = "callbacks.panels=null"
    run = train(
        "model=ytmt_pcs",
        "loss=pixel",
        *tiny,
        f"debug={debug}",
        panels,
        "data.samples_per_epoch=4",
        *extra.get(debug, ()),
    )
    assert run.status == 0, run.err
    if debug == "fast":
        assert "Where the time of" in next(run.folder.glob("fit-profile*.txt")).read_text()


def test_an_unknown_profiler_is_one_sentence(train: Train) -> None:
    run = train("model=ytmt_pcs", "loss=pixel", *TINY, "trainer.profiler=magic")
    assert run.status == 2
    assert "is none of parts, simple, advanced, pytorch, null" in run.sentence
