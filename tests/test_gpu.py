"""What only a CUDA device can show: ``make test-gpu``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import reflectzoo
from reflectzoo.nets.hypercolumn import Hypercolumn, HypercolumnConv2d, plain_hypercolumn
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import load_vgg19
from tests.conftest import TINY, TINY_GAN, Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_two_adversarial_stages_train(train: Callable[..., Run], precision: str) -> None:
    run = train(
        *("model=ytmt_uct", *TINY, *TINY_GAN, "model.stage1_epochs=1", "trainer.accelerator=gpu"),
        f"trainer.precision={precision}",
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
