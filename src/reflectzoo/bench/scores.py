"""``python -m reflectzoo.bench.scores``: time to score a picture, compared with plain implementations of the scores.

The plain implementations follow the definitions literally: averages by pooling, windows by convolutions, LMSE with
unfolded windows. The zoo used them before, and they serve as the reference of the fast ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.bench.measure import machine
from reflectzoo.cli.tables import Column, TextTable
from reflectzoo.metrics import functional
from reflectzoo.ops.ssim import gaussian_window

_C1, _C2 = 0.01**2, 0.03**2


def plain_uniform_ssim(p: Tensor, t: Tensor) -> Tensor:
    """SSIM with a uniform 7x7 window, by pooling; arguments and result as :func:`functional.uniform_ssim`."""

    def mean(images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 7, stride=1)

    sample = 49 / 48
    mean_p, mean_t = mean(p), mean(t)
    variances = sample * (mean(p * p) - mean_p**2 + mean(t * t) - mean_t**2)
    covariance = sample * (mean(p * t) - mean_p * mean_t)
    values = (2 * mean_p * mean_t + _C1) * (2 * covariance + _C2)
    return (values / ((mean_p**2 + mean_t**2 + _C1) * (variances + _C2))).mean(dim=(1, 2, 3))


def plain_structure_index(p: Tensor, t: Tensor) -> Tensor:
    """SI with the Gaussian window, by convolutions; arguments and result as :func:`functional.structure_index`."""
    taps = gaussian_window(p.dtype, p.device)

    def mean(images: Tensor) -> Tensor:
        channels = images.shape[1]
        rows = F.conv2d(images, taps.view(1, 1, -1, 1).expand(channels, -1, -1, -1), padding=(5, 0), groups=channels)
        return F.conv2d(rows, taps.view(1, 1, 1, -1).expand(channels, -1, -1, -1), padding=(0, 5), groups=channels)

    mean_p, mean_t = mean(p), mean(t)
    variances = mean(p * p) - mean_p**2 + mean(t * t) - mean_t**2
    covariance = mean(p * t) - mean_p * mean_t
    return ((2 * covariance + _C2) / (variances + _C2)).mean(dim=(1, 2, 3))


def plain_lmse(p: Tensor, t: Tensor) -> Tensor:
    """LMSE with unfolded windows, (B, 3, H, W) in double precision; result as :func:`functional.lmse`."""
    wp, wt = (F.unfold(image, 20, stride=10).view(len(image), 3, 400, -1) for image in (p, t))
    power = (wp * wp).sum(-2)
    factor = torch.where(power > 1e-5 / 255**2, (wp * wt).sum(-2) / power.clamp(min=1e-5 / 255**2), 0.0)
    return (wt - factor.unsqueeze(-2) * wp).square().sum(dim=(1, 2, 3)) / (wt * wt).sum(dim=(1, 2, 3))


Score = Callable[[Tensor, Tensor], Tensor]
SCORES: dict[str, tuple[Score, Score]] = {
    "psnr": (functional.channel_psnr, functional.channel_psnr),
    "ssim": (plain_uniform_ssim, functional.uniform_ssim),
    "lmse": (plain_lmse, functional.lmse),
    "ncc": (functional.ncc, functional.ncc),
    "si": (plain_structure_index, functional.structure_index),
}
"""Score -> (plain implementation, ours)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the times of both implementations and the difference of their values.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reflectzoo.bench.scores", description="Measure the time to score a picture on the CPU."
    )
    parser.add_argument("--height", type=int, default=540)
    parser.add_argument("--width", type=int, default=400, help="SIR² has 540x400")
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the median is printed")
    arguments = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, arguments.height, arguments.width, dtype=torch.float64, generator=generator)
    found = (0.9 * truth + 0.1 * torch.rand(truth.shape, dtype=torch.float64, generator=generator)).clamp(0, 1)
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    size = f"{arguments.width}x{arguments.height}"
    lines = [about, f"One picture of {size}, CPU seconds", ""]
    columns = [Column(), *(Column(head, right=True) for head in ("plain", "ours", "times", "apart"))]
    rows: list[list[str]] = []
    totals = [0.0, 0.0]
    for name, (plain, ours) in SCORES.items():
        seconds = [_seconds(form, found, truth, arguments.repeat) for form in (plain, ours)]
        apart = float((plain(found, truth) - ours(found, truth)).abs().max())
        totals = [total + each for total, each in zip(totals, seconds, strict=True)]
        rows.append([name, *_compared(*seconds), f"{apart:.0e}"])
    lines += TextTable(columns, rows, below=[["all", *_compared(*totals), ""]]).plain()
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _compared(plain: float, ours: float) -> list[str]:
    return [f"{plain:.4f}", f"{ours:.4f}", f"{plain / ours:.1f}"]


def _seconds(form: Score, found: Tensor, truth: Tensor, repeat: int) -> float:
    """Median CPU time of this process, which excludes other load on the machine."""
    times = []
    for _ in range(repeat + 1):
        began = time.process_time()
        form(found, truth)
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


if __name__ == "__main__":
    sys.exit(main())
