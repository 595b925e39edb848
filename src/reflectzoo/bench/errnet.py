"""ERRNet: VGG maps and means projected at their own size, fast 3x3 convolutions, channels-last; against none of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from reflectzoo.bench.subject import Comparison, Options, Prepared
from reflectzoo.methods.errnet.net import ERRNet, plain_form
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import load_vgg19

TITLE = "ERRNet, hypercolumn of VGG-19 (seeded weights; speed does not depend on them)"

_INFERENCE, _LARGE, _TRAINING = (256, 352), (768, 1024), (128, 128)


def comparisons(options: Options) -> list[Comparison]:
    """Inference in time, in fp32 and bf16, and in memory; a training step in time and memory."""
    inference, large, training = (
        tuple(max(side // options.shrink, 32) for side in size) for size in (_INFERENCE, _LARGE, _TRAINING)
    )

    def row(
        key: str, name: str, goal: float, prepare: Callable[..., Prepared], size: tuple[int, ...], **more: bool
    ) -> Comparison:
        return Comparison(
            key,
            name.format("x".join(map(str, size))),
            "memory" if "memory" in key else "seconds",
            goal,
            lambda: prepare(size, options.seed, plain=True),
            lambda: prepare(size, options.seed, **more),
            bf16=bool(more),
        )

    return [
        row("inference_fp32", "inference {}, fp32", 1.5, _inference, inference),
        row("training_fp32", "training step {}, fp32", 1.0, _training, training),
        row("inference_bf16", "inference {}, bf16 against plain fp32", 3.0, _inference, inference, bf16=True),
        row("inference_memory", "inference {}, fp32: peak memory", 2.0, _inference, large),
        row("training_memory", "training step {}, fp32: peak memory", 1.0, _training, training),
    ]


def _network(seed: int, bf16: bool) -> ERRNet:
    torch.manual_seed(seed)
    net = ERRNet()
    attach_vgg(net, load_vgg19("random"))
    return net.to(memory_format=torch.channels_last) if bf16 else net  # type: ignore[call-overload, no-any-return]


def _picture(size: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def _inference(size: tuple[int, ...], seed: int, plain: bool = False, bf16: bool = False) -> Prepared:
    net, picture = _network(seed, bf16).eval(), _picture(size, seed)

    def run(image: Tensor = picture) -> object:
        with (
            torch.inference_mode(),
            plain_form() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            return net(image)

    # What every process pays once (threads, code made at run time) is no part of the peak of a picture.
    run(picture[..., :32, :32])
    return run


def _training(size: tuple[int, ...], seed: int, plain: bool = False) -> Prepared:
    net, picture = _network(seed, bf16=False).train(), _picture(size, seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def run() -> object:
        optimizer.zero_grad()
        with plain_form() if plain else nullcontext():
            loss = (net(picture)["transmission"] - picture).abs().mean()
        loss.backward()
        return optimizer.step()

    return run
