"""What only a CUDA device can show: ``make test-gpu``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage
import torch

import reflectzoo
from reflectzoo.core import registry
from reflectzoo.methods.lite import sprint
from reflectzoo.nets.hypercolumn import Hypercolumn, HypercolumnConv2d, plain_hypercolumn
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import load_vgg19
from tests.conftest import TINY, TINY_GAN, Run, command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_two_adversarial_stages_train(train: Callable[..., Run], precision: str) -> None:
    run = train(
        *("model=ytmt_uct", *TINY, *TINY_GAN, "model.stage1_epochs=1", "trainer.accelerator=gpu"),
        *(f"trainer.precision={precision}", "data.samples_per_epoch=8"),
    )
    assert run.status == 0, run.err
    model = reflectzoo.load_model(run.folder / "checkpoints/last.ckpt").cuda()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 45, 61, device="cuda"))["transmission"].isfinite().all()


def test_fast_first_convolution_equals_the_plain_one() -> None:
    hypercolumn, conv = Hypercolumn().cuda(), HypercolumnConv2d(1475, 16).cuda()
    attach_vgg(hypercolumn, load_vgg19("random").cuda())
    image = torch.rand(2, 3, 93, 130, device="cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    fast = conv(hypercolumn(image))
    with plain_hypercolumn():
        plain = conv(hypercolumn(image))
    assert (fast - plain).abs().max() < 1e-4


ALSO = {"location_aware": ("data.crop=64",), "dynamics_student": ("model.student_batch=null",)}
"""What a method needs beyond its tiny form: a VGG at a quarter of the size; no accumulation of its own."""


@pytest.mark.parametrize("model", [method.main for method in registry.methods().values()])
def test_16_mixed_with_clipping_and_accumulation(train: Callable[..., Run], model: str) -> None:
    run = train(
        *(f"model={model}", *TINY[1:], *registry.method_of(model).tiny_of(model), *ALSO.get(model, ())),
        *("trainer.accelerator=gpu", "trainer.precision=16-mixed"),
        *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5", "test=false"),
        "data.samples_per_epoch=8",
    )
    assert run.status == 0, run.err


def test_a_compiled_training_is_the_plain_one(train: Callable[..., Run]) -> None:
    common = ("model=lite", *TINY, "data.samples_per_epoch=8", "trainer.accelerator=gpu", "test=false")
    plain = train(*common, folder="plain")
    compiled = train(*common, "compile=true", folder="compiled")
    assert plain.status == compiled.status == 0, compiled.err
    states = [
        torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (plain, compiled)
    ]
    assert states[0].keys() == states[1].keys()


def test_the_sprint_trains_in_bf16_and_what_it_writes_loads_on_a_cpu(tmp_path: Path) -> None:
    pictures = Path(skimage.__file__).parent / "data"
    (tmp_path / "photos").mkdir()
    for name in ("coffee.png", "chelsea.png"):
        shutil.copy(pictures / name, tmp_path / "photos")
    out = str(tmp_path / "out")
    start = Path(reflectzoo.__file__).parent / "weight_records/lite.safetensors"
    common = ["--photos", str(tmp_path / "photos"), "--start", str(start), "--minutes", "0.1", "--batch", "4"]
    assert sprint.main([out, *common]) == 0
    assert sprint.main([out, "--pack", str(tmp_path / "lite.safetensors")]) == 0
    model = reflectzoo.load_model(tmp_path / "lite.safetensors")
    with torch.no_grad():
        assert model(torch.rand(1, 3, 45, 61))["transmission"].isfinite().all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_devices(tmp_path: Path, trainer: str) -> None:
    done = command(
        *("reflectzoo.train", "model=lite", *TINY, f"trainer={trainer}", "trainer.accelerator=gpu"),
        *("trainer.devices=2", "data.samples_per_epoch=8", "hydra.run.dir=run"),
        cwd=tmp_path,
    )
    assert done.status == 0, done.err
    model = reflectzoo.load_model(tmp_path / "run/checkpoints/last.ckpt")
    with torch.no_grad():
        assert model(torch.rand(1, 3, 45, 61))["transmission"].isfinite().all()


def test_photographs_come_in_time(tmp_path: Path) -> None:
    from reflectzoo.bench.train import GOAL, measure_training

    speed = measure_training("lite", ("trainer.accelerator=gpu", "data.batch_size=4", "data.crop=160"), batches=30)
    assert speed.share("wait") < GOAL
    assert speed.memory is not None
