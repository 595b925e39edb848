"""Common rows of the benchmarks of whole networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from reflectzoo.bench.registry import Options, Prepared, SpeedComparison
from reflectzoo.nets.plain import plain_form

Make = Callable[[], nn.Module]
_Size = tuple[int, int]

_ROWS = {
    # key -> name of the row, with a placeholder for the size
    "inference_fp32": "inference {}, fp32",
    "training_fp32": "training step {}, fp32",
    "inference_bf16": "inference {}, bf16 against plain fp32",
    "inference_memory": "inference {}, fp32: peak memory",
}


def network_rows(
    options: Options, make: Make, sizes: tuple[_Size, _Size, _Size], goals: Mapping[str, float], least: int = 16
) -> list[SpeedComparison]:
    """Inference and training step of a network, with and without :func:`~reflectzoo.nets.plain.plain_form`.

    Args:
        options: options of the command.
        make: creates the network.
        sizes: height and width of the picture for inference, for its peak memory, and for a training step.
        goals: key of each row -> ratio to reach: ``inference_fp32``, ``training_fp32``, ``inference_bf16``,
            ``inference_memory``.
        least: smallest side in pixels after shrinking.
    """
    inference, large, training = (
        (max(height // options.shrink, least), max(width // options.shrink, least)) for height, width in sizes
    )
    return [_row(key, goal, options, make, inference, large, training) for key, goal in goals.items()]


def _row(
    key: str, goal: float, options: Options, make: Make, inference: _Size, large: _Size, training: _Size
) -> SpeedComparison:
    prepare = _training if key.startswith("training") else _inference
    size = {"training_fp32": training, "inference_memory": large}.get(key, inference)
    bf16 = key.endswith("bf16")
    return SpeedComparison(
        key,
        _ROWS[key].format(f"{size[0]}x{size[1]}"),
        "memory" if key.endswith("memory") else "seconds",
        goal,
        lambda: prepare(make, size, options.seed, plain=True, bf16=False),
        lambda: prepare(make, size, options.seed, plain=False, bf16=bf16),
        bf16=bf16,
    )


def _network(make: Make, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def _picture(size: _Size, seed: int) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def _inference(make: Make, size: _Size, seed: int, plain: bool, bf16: bool) -> Prepared:
    net, picture = _network(make, seed).eval(), _picture(size, seed)
    if bf16:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run() -> object:
        with (
            torch.inference_mode(),
            plain_form() if plain else nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            return net(picture)["transmission"]

    return run


def _training(make: Make, size: _Size, seed: int, plain: bool, bf16: bool) -> Prepared:
    net, picture = _network(make, seed).train(), _picture(size, seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def run() -> object:
        optimizer.zero_grad()
        with plain_form() if plain else nullcontext():
            loss = (net(picture)["transmission"] - picture).abs().mean()
        loss.backward()
        return optimizer.step()

    return run
