"""Synthesis of mixtures from two photographs, compared with the way of the authors' programs, on one core.

The plain forms are our own implementations in numpy, one mixture at a time, with the convolution of each program: the
full two-dimensional ``scipy.signal.convolve2d`` (CEILNet's model as in YTMT and ERRNet, DSRNet, cold), OpenCV's
Gaussian blur (Zhang), or torch's two-dimensional depthwise convolution (IBCLN, and Location-aware like IBCLN). CoRRN is
omitted, since it has only a MATLAB script. Tests verify that both forms agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d
from torch import Tensor

from reflectzoo.bench.registry import Options, Prepared, SpeedComparison
from reflectzoo.data.synthesis import (
    CEILNetSynthesis,
    ColdSynthesis,
    DSRNetSynthesis,
    IBCLNSynthesis,
    LocationAwareSynthesis,
    Synthesis,
    ZhangSynthesis,
)

TITLE = "mixtures, one core, decoding and cropping excluded; plain: one at a time as the programs do"

_SIZE, _COUNT, _CUDA_BATCH = 224, 8, 64

Image = npt.NDArray[Any]
Plain = Callable[[Image, Image, Mapping[str, Any]], tuple[Image, Image, Image]]
"""(transmission, reflection, draws) of one sample, (H, W, 3) in [0, 1] -> (mixture, transmission, reflection)."""


def comparisons(options: Options) -> list[SpeedComparison]:
    """One row per model with a plain form, and one for CEILNet's model on CUDA if it is available."""
    size = max(_SIZE // options.shrink, 16)
    rows = [
        SpeedComparison(
            name,
            f"{name}, {_COUNT} mixtures of {size}x{size}",
            "seconds",
            goal,
            _prepared(_plain_run, name, size, options.seed),
            _prepared(_fast_run, name, size, options.seed),
        )
        for name, goal in GOALS.items()
    ]
    if torch.cuda.is_available():
        rows.append(
            SpeedComparison(
                "ceilnet_cuda",
                f"ceilnet, {_CUDA_BATCH} mixtures of {size}x{size}, CUDA (20,000/s: 0.0032 s)",
                "seconds",
                500.0,  # the programs synthesise about 40 per second
                _prepared(_plain_run, "ceilnet", size, options.seed, count=_CUDA_BATCH),
                _prepared(_cuda_run, "ceilnet", size, options.seed),
            )
        )
    return rows


def _prepared(prepare: Callable[..., Prepared], *arguments: Any, **more: Any) -> Callable[[], Prepared]:
    return lambda: prepare(*arguments, **more)


def _pictures(size: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth pictures with highlights, (count, 3, size, size) each; their content affects only rare branches."""
    coarse = torch.rand(2 * count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    both = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    return both[:count], both[count:]


def _plain_run(name: str, size: int, seed: int, count: int = _COUNT) -> Prepared:
    transmission, reflection = _pictures(size, count, seed)
    draws = MODELS[name]().draw(range(count))
    behind, reflected = (layer.permute(0, 2, 3, 1).contiguous().numpy() for layer in (transmission, reflection))
    drawn = [one_draw(draws, index) for index in range(count)]

    def run() -> object:
        with _one_core():
            return [PLAIN[name](*sample) for sample in zip(behind, reflected, drawn, strict=True)]

    return run


def _fast_run(name: str, size: int, seed: int) -> Prepared:
    model = MODELS[name]()
    transmission, reflection = _pictures(size, _COUNT, seed)
    draws = model.draw(range(_COUNT))

    def run() -> object:
        with _one_core():
            return model(transmission, reflection, draws=draws)

    return run


def _cuda_run(name: str, size: int, seed: int) -> Prepared:
    model = MODELS[name]()
    transmission, reflection = (layer.cuda() for layer in _pictures(size, _CUDA_BATCH, seed))
    draws = {key: value.cuda() for key, value in model.draw(range(_CUDA_BATCH)).items()}

    def run() -> object:
        blend = model(transmission, reflection, draws=draws)
        torch.cuda.synchronize()
        return blend

    return run


@contextmanager
def _one_core() -> Iterator[None]:
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)


# -- plain forms -----------------------------------------------------------------------------------------------------


def one_draw(draws: Mapping[str, Tensor], index: int) -> dict[str, Any]:
    """The drawn parameters of one sample as plain numbers and lists."""
    return {name: value[index].tolist() for name, value in draws.items()}


def _gaussian(side: int, sigma: float) -> Image:
    weights = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    return np.outer(weights, weights)


def _blurred_in_full(reflection: Image, side: int, sigma: float) -> Image:
    kernel = _gaussian(side, sigma)
    return np.stack([convolve2d(reflection[..., c], kernel, mode="same") for c in range(3)], axis=-1)


def _without_overflow(behind: Image, layer: Image, gamma: float) -> Image:
    total = behind + layer
    if total.max() > 1:
        layer = np.clip(layer - gamma * (total[total > 1].mean() - 1), 0, 1)
    return layer


def _ceilnet(transmission: Image, reflection: Image, drawn: Mapping[str, Any]) -> tuple[Image, Image, Image]:
    layer = _blurred_in_full(reflection, 11, drawn["sigma"])
    layer = _without_overflow(transmission, layer, drawn["gamma"])
    return np.clip(transmission + layer, 0, 1), transmission, layer


def _dsrnet(transmission: Image, reflection: Image, drawn: Mapping[str, Any]) -> tuple[Image, Image, Image]:
    blurred = _blurred_in_full(reflection, int(drawn["side"]), drawn["sigma"])
    behind, layer = drawn["alpha"] * transmission, drawn["beta"] * blurred
    if drawn["screen"]:
        return behind + layer - behind * layer, transmission, blurred
    return np.clip(behind + _without_overflow(behind, layer, 1.3), 0, 1), transmission, blurred


def _cold(transmission: Image, reflection: Image, drawn: Mapping[str, Any]) -> tuple[Image, Image, Image]:
    ground = np.ones_like(transmission) * np.clip(np.array(drawn["colour"]) / 255, 0, 1)
    layer = _blurred_in_full(reflection, 11, drawn["sigma"])
    layer = np.clip(layer - layer.mean() * 1.3, 0, 1)
    layer = np.clip(layer * drawn["delta"], 0, 1)
    return np.clip(ground + layer, 0, 1), ground, layer


def _side(sigma: float) -> int:
    return int(2 * np.ceil(2 * np.float32(sigma)) + 1)


def _window(height: int, width: int, drawn: Mapping[str, Any]) -> Image:
    top, left = int(drawn["y"] * (560 - height - 10)), int(drawn["x"] * (560 - width - 10))
    return _MAP[top : top + height, left : left + width, None]


def _whole_map() -> Image:
    half = 7 / 560 / 2
    weights = np.diff(torch.special.ndtr(torch.linspace(-3 - half, 3 + half, 561, dtype=torch.float64)).numpy())
    profile = np.sqrt(weights / weights.max())
    return np.outer(profile, profile)


_MAP = _whole_map()


def _in_linear_light(blur: Callable[[Image, float], Image]) -> Plain:
    def blend(transmission: Image, reflection: Image, drawn: Mapping[str, Any]) -> tuple[Image, Image, Image]:
        behind = transmission**2.2
        layer = blur(reflection**2.2, drawn["sigma"])
        for channel in range(3):
            total = layer[..., channel] + behind[..., channel]
            mask = total > 1
            mean = max(1.0, (total * mask).sum() / (mask.sum() + 1e-6))
            layer[..., channel] -= (mean - 1) * drawn["attenuation"]
        layer = np.clip(layer, 0, 1) * _window(transmission.shape[0], transmission.shape[1], drawn)
        mixture = layer + drawn["alpha"] * behind
        return np.clip(mixture ** (1 / 2.2), 0, 1), transmission, layer ** (1 / 2.2)

    return blend


def _opencv(image: Image, sigma: float) -> Image:
    return cv2.GaussianBlur(image, (_side(sigma), _side(sigma)), sigma)


def _depthwise(image: Image, sigma: float) -> Image:
    side = _side(sigma)
    kernel = torch.from_numpy(_gaussian(side, sigma)).float().expand(3, 1, side, side)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    padded = F.pad(batch, (side // 2,) * 4, mode="reflect")
    return F.conv2d(padded, kernel, groups=3)[0].permute(1, 2, 0).contiguous().numpy()


MODELS: dict[str, Callable[[], Synthesis]] = {
    "ceilnet": CEILNetSynthesis,
    "dsrnet": DSRNetSynthesis,
    "cold": ColdSynthesis,
    "ibcln": IBCLNSynthesis,
    "location_aware": LocationAwareSynthesis,
    "zhang": ZhangSynthesis,
}
"""Measured synthesis models, by the name of their configuration."""

PLAIN: dict[str, Plain] = {
    "ceilnet": _ceilnet,
    "dsrnet": _dsrnet,
    "cold": _cold,
    "ibcln": _in_linear_light(_depthwise),
    "location_aware": _in_linear_light(_depthwise),
    "zhang": _in_linear_light(_opencv),
}
"""Plain form of each model."""

# The powers of the models in linear light cost as much as the blur in both forms, and OpenCV's C++ blur is separable.
GOALS = {
    "ceilnet": 10.0,
    "dsrnet": 10.0,
    "cold": 10.0,
    "ibcln": 2.0,
    "location_aware": 2.0,
    "zhang": 1.0,
}
