"""Training step of lite: the optimised one of its sprint, compared with the same computation in plain PyTorch."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial

import torch

from reflectzoo.bench.registry import Options, Prepared, SpeedComparison
from reflectzoo.methods.lite.bank import Crops
from reflectzoo.methods.lite.net_2 import LiteNet2
from reflectzoo.methods.lite.sprint import (
    computes_fast_in_bfloat16,
    loss_of,
    net_settings,
    pointwise_as_products,
)

TITLE = "lite, one training step of eight crops: the sprint's against the plain one"

_BATCH = 8


def comparisons(options: Options) -> list[SpeedComparison]:
    """A step for each crop size used in training."""
    return [
        SpeedComparison(
            f"step_{side}",
            f"{_BATCH} crops of {side}x{side}",
            "seconds",
            2.5,
            partial(_step, options, side, False),
            partial(_step, options, side, True),
        )
        for side in (160, 256)
    ]


def _step(options: Options, side: int, fast: bool) -> Prepared:
    """Prepare a step: forward, loss, backward, gradient clipping and AdamW.

    ``fast``: channels-last, 1x1 convolutions as matrix products, fused optimiser; where the machine allows, in bfloat16
    (the CPU has instructions for it) and compiled (there is a C++ compiler).
    """
    torch.manual_seed(options.seed)
    net = LiteNet2(**net_settings(None)).train()
    side = max(side // options.shrink // 32 * 32, 32)
    mixture, transmission, reflection = torch.rand(3, _BATCH, 3, side, side)
    crops = Crops(mixture, transmission, reflection)
    learning = [each for each in net.parameters() if each.requires_grad]
    if fast:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pointwise_as_products(net)
        mixture = mixture.contiguous(memory_format=torch.channels_last)
    trained = torch.compile(net, dynamic=False) if fast and has_compiler() else net
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=fast, foreach=False)
    reduced = fast and computes_fast_in_bfloat16(mixture.device)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            outputs = trained(mixture)
        loss = loss_of(outputs["transmission"].float(), outputs["reflection"].float(), crops)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learning, 1.0, foreach=fast)
        optimizer.step()

    return run


def has_compiler() -> bool:
    """Whether the C++ compiler is installed that ``torch.compile`` calls on a CPU."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX", usual)) is not None
