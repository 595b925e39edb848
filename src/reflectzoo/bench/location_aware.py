"""Location-aware SIRR: gates joined, the empty memory skipped, the LSTM in bands, channels-last; against none of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from reflectzoo.bench.subject import Comparison, Options, Prepared
from reflectzoo.methods.location_aware.net import LocationAwareNet, plain_form

TITLE = "Location-aware SIRR, three iterations (seeded weights; speed does not depend on them)"

_INFERENCE, _LARGE, _TRAINING = (400, 544), (768, 1024), (128, 128)


def comparisons(options: Options) -> list[Comparison]:
    """Inference in time, in fp32 and bf16, and in memory; a training step."""
    inference, large, training = (
        tuple(max(side // options.shrink, 16) for side in size) for size in (_INFERENCE, _LARGE, _TRAINING)
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
        row("inference_fp32", "inference {}, fp32", 1.3, _inference, inference),
        row("training_fp32", "training step {}, fp32", 1.0, _training, training),
        row("inference_bf16", "inference {}, bf16 against plain fp32", 3.0, _inference, inference, bf16=True),
        row("inference_memory", "inference {}, fp32: peak memory", 1.3, _inference, large),
    ]


def _network(seed: int, bf16: bool) -> LocationAwareNet:
    torch.manual_seed(seed)
    net = LocationAwareNet()
    return net.to(memory_format=torch.channels_last) if bf16 else net  # type: ignore[call-overload, no-any-return]


def _picture(size: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def _inference(size: tuple[int, ...], seed: int, plain: bool = False, bf16: bool = False) -> Prepared:
    net, picture = _network(seed, bf16).eval(), _picture(size, seed)

    def run() -> object:
        with (
            torch.inference_mode(),
            plain_form() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            return net(picture)["transmission"]

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
