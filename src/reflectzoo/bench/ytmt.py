"""YTMT-UCS: the first convolution without building its input of 1475 channels, compared with building it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from reflectzoo.bench.registry import Options, Prepared, SpeedComparison
from reflectzoo.methods.ytmt.net import YTMTUNet
from reflectzoo.nets.hypercolumn import plain_hypercolumn
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import load_vgg19

TITLE = "YTMT-UCS, one stage, hypercolumn of VGG-19 (seeded weights; speed does not depend on them)"

_INFERENCE, _TRAINING = 512, 224


def comparisons(options: Options) -> list[SpeedComparison]:
    """Inference and training step: time in fp32, and in bf16 with channels-last; inference: memory."""
    inference, training = _INFERENCE // options.shrink, _TRAINING // options.shrink
    one = f"inference {inference}x{inference}"
    step = f"training step {training}x{training}"

    def prepared(prepare: Callable[..., Prepared], size: int, **how: bool) -> Callable[[], Prepared]:
        return lambda: prepare(size, options.seed, **how)

    return [
        SpeedComparison(
            "inference_fp32",
            f"{one}, fp32",
            "seconds",
            1.8,
            prepared(_inference, inference, plain=True),
            prepared(_inference, inference),
        ),
        SpeedComparison(
            "training_fp32",
            f"{step}, fp32",
            "seconds",
            1.8,
            prepared(_training, training, plain=True),
            prepared(_training, training),
        ),
        SpeedComparison(
            "inference_bf16",
            f"{one}, bf16 + channels_last against plain fp32",
            "seconds",
            4.0,
            prepared(_inference, inference, plain=True),
            prepared(_inference, inference, bf16=True),
            bf16=True,
        ),
        SpeedComparison(
            "training_bf16",
            f"{step}, bf16 + channels_last against plain fp32",
            "seconds",
            3.0,
            prepared(_training, training, plain=True),
            prepared(_training, training, bf16=True),
            bf16=True,
        ),
        SpeedComparison(
            "inference_memory",
            f"{one}, fp32, peak memory",
            "memory",
            2.0,
            prepared(_inference, inference, plain=True),
            prepared(_inference, inference),
        ),
    ]


def _network(seed: int, bf16: bool) -> YTMTUNet:
    torch.manual_seed(seed)
    net = YTMTUNet("C")
    attach_vgg(net, load_vgg19("random"))
    # The shared VGG is not a submodule; it is converted together with the modules that use it.
    return net.to(memory_format=torch.channels_last) if bf16 else net  # type: ignore[call-overload, no-any-return]


def _picture(size: int, seed: int, bf16: bool) -> Tensor:
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return picture.contiguous(memory_format=torch.channels_last) if bf16 else picture


def _inference(size: int, seed: int, plain: bool = False, bf16: bool = False) -> Prepared:
    net, picture = _network(seed, bf16).eval(), _picture(size, seed, bf16)

    def run(image: Tensor = picture) -> object:
        with (
            torch.inference_mode(),
            plain_hypercolumn() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            return net(image)

    # Exclude the one-time memory of a process (threads, generated code) from the peak of a picture.
    run(picture[..., :16, :16])
    return run


def _training(size: int, seed: int, plain: bool = False, bf16: bool = False) -> Prepared:
    net, picture = _network(seed, bf16).train(), _picture(size, seed, bf16)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def run() -> object:
        optimizer.zero_grad()
        with (
            plain_hypercolumn() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            layers = net(picture)
            loss = sum((layers[name] - picture).abs().mean() for name in ("transmission", "reflection"))
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        return optimizer.step()

    return run
