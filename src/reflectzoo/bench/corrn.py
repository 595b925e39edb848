"""CoRRN: computing the three equal branches of every upsampling step once, compared with computing all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from reflectzoo.bench.registry import Options, Prepared, SpeedComparison
from reflectzoo.methods.corrn.net import CoRRNNet, plain_copies
from reflectzoo.methods.corrn.statistic import mmd, pixel_mmd

TITLE = "CoRRN (seeded weights; speed does not depend on them)"

_INFERENCE, _TRAINING = (416, 544), (224, 288)
# For a whole picture, the sum over all pairs of pixels does not fit into memory; a small number shows the difference.
_PIXELS = 4096


def comparisons(options: Options) -> list[SpeedComparison]:
    """Inference and training step: time in fp32 and bf16; statistic loss: time and memory."""
    inference, training = (tuple(max(side // options.shrink, 32) for side in size) for size in (_INFERENCE, _TRAINING))
    one, step = (
        f"{what} {size[0]}x{size[1]}" for what, size in (("inference", inference), ("training step", training))
    )
    pixels = max(_PIXELS // options.shrink**2, 16)

    def row(
        key: str, name: str, goal: float, prepare: Callable[..., Prepared], size: object, **more: bool
    ) -> SpeedComparison:
        return SpeedComparison(
            key,
            name,
            "seconds",
            goal,
            lambda: prepare(size, options.seed, plain=True),
            lambda: prepare(size, options.seed, **more),
            bf16=bool(more),
        )

    loss = f"MMD of {pixels} pixels, there and back"
    return [
        row("inference_fp32", f"{one}, fp32", 1.0, _inference, inference),
        row("training_fp32", f"{step}, fp32", 1.0, _training, training),
        row("inference_bf16", f"{one}, bf16 + channels_last against plain fp32", 3.0, _inference, inference, bf16=True),
        row("training_bf16", f"{step}, bf16 + channels_last against plain fp32", 2.0, _training, training, bf16=True),
        row("statistic", f"{loss}: waves against pairs", 3.0, _statistic, pixels),
        SpeedComparison(
            "statistic_memory",
            f"{loss}: peak memory",
            "memory",
            3.0,
            lambda: _statistic(pixels, options.seed, plain=True),
            lambda: _statistic(pixels, options.seed),
        ),
    ]


def _network(seed: int, bf16: bool) -> CoRRNNet:
    torch.manual_seed(seed)
    net = CoRRNNet()
    return net.to(memory_format=torch.channels_last) if bf16 else net  # type: ignore[call-overload, no-any-return]


def _picture(size: tuple[int, int], seed: int, bf16: bool) -> Tensor:
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    return picture.contiguous(memory_format=torch.channels_last) if bf16 else picture


def _inference(size: tuple[int, int], seed: int, plain: bool = False, bf16: bool = False) -> Prepared:
    net, picture = _network(seed, bf16).eval(), _picture(size, seed, bf16)

    def run() -> object:
        with (
            torch.inference_mode(),
            plain_copies() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            return net(picture)

    return run


def _training(size: tuple[int, int], seed: int, plain: bool = False, bf16: bool = False) -> Prepared:
    net, picture = _network(seed, bf16).train(), _picture(size, seed, bf16)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def run() -> object:
        optimizer.zero_grad()
        with (
            plain_copies() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            loss = (net(picture)["transmission"] - picture).abs().mean()
        loss.backward()
        return optimizer.step()

    return run


def _statistic(pixels: int, seed: int, plain: bool = False) -> Prepared:
    generator = torch.Generator().manual_seed(seed)
    # Heavy-tailed, like image gradients.
    x, y = (torch.randn(1, pixels, generator=generator) ** 3 for _ in range(2))
    x.requires_grad_()

    def run() -> object:
        value = mmd(x[0, :, None], y[0, :, None]) if plain else pixel_mmd(x, y)
        return torch.autograd.grad(value.sum(), x)

    return run
