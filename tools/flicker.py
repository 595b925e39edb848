"""Measure the flicker of a video with ``reflectzoo remove --steady``; prints the table of docs/remove.md.

    python tools/flicker.py

The clip is synthesised from two photographs of scikit-image's wheel, so that its ground truth is known: a camera pans
over a scene behind glass, and over the reflection in the opposite direction. Each frame has noise, is rounded to 8 bits
and separated with the packaged weights. Flicker is the mean absolute change, from frame to frame at the same point of
the scene, of the difference between result and ground truth, in levels of 255, averaged over 5x5 pixels to suppress
noise. The clip itself flickers, too, since the reflection moves over the scene.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import cv2
import numpy as np
import torch
from skimage import data, metrics

from reflectzoo.inference.load import default_model, load
from reflectzoo.inference.separator import Separator
from reflectzoo.inference.steady import Frame, TemporalSmoother

HEIGHT, WIDTH = 192, 256
STEP = 2
"""Motion of the camera, in pixels per frame."""
SHARES = (0.0, 0.5, 0.7, 0.9)


def main() -> int:
    """Synthesise the clip, separate it, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation, of [0, 1]")
    parser.add_argument("--model", help="another one than the packaged")
    parser.add_argument("--weights")
    wanted = parser.parse_args()
    truths, mixtures = clip(wanted.frames, wanted.noise)
    separator = Separator(load(wanted.model or default_model(), wanted.weights), "cpu")
    corrections = [corrected(separator, mixture) for mixture in mixtures]
    print("| `--steady` | flicker | PSNR, dB |\n| --- | --- | --- |")  # noqa: T201
    quality = score(truths, mixtures)
    print(f"| the clip itself | {flicker(truths, mixtures):.2f} | {quality:.2f} |")  # noqa: T201
    for share in SHARES:
        steady = TemporalSmoother(share)
        steadied = [steady.step(mixture, each) for mixture, each in zip(mixtures, corrections, strict=True)]
        results = [np.clip(mixture + each, 0, 1) for mixture, each in zip(mixtures, steadied, strict=True)]
        print(f"| {share:g} | {flicker(truths, results):.2f} | {score(truths, results):.2f} |")  # noqa: T201
    return 0


def clip(frames: int, noise: float) -> tuple[list[Frame], list[Frame]]:
    """Synthesise the frames: true transmissions and mixtures, (H, W, 3) float32, the mixtures in [0, 1].

    Args:
        frames: number of frames.
        noise: standard deviation, for values in [0, 1].
    """
    rng = np.random.default_rng(0)
    scene = data.coffee().astype(np.float32) / 255
    mirrored = cv2.GaussianBlur(data.astronaut().astype(np.float32) / 255, (0, 0), 2)
    truths, mixtures = [], []
    for number in range(frames):
        left, back = STEP * number, STEP * (frames - number)
        truth = 0.9 * scene[60 : 60 + HEIGHT, left : left + WIDTH]
        mixture = truth + 0.3 * mirrored[:HEIGHT, back : back + WIDTH]
        mixture = np.clip(mixture + rng.normal(0, noise, mixture.shape), 0, 1)
        truths.append(truth)
        mixtures.append((np.rint(mixture * 255) / 255).astype(np.float32))
    return truths, mixtures


def corrected(separator: Separator, mixture: Frame) -> Frame:
    """The correction by the network: transmission - mixture, (H, W, 3)."""
    layers = separator.layers(torch.from_numpy(mixture).permute(2, 0, 1))
    correction: Frame = layers["transmission"].permute(1, 2, 0).numpy() - mixture
    return correction


def flicker(truths: list[Frame], results: list[Frame]) -> float:
    """Mean absolute change of the error from frame to frame at the same point of the scene, in levels of 255."""
    errors = [result - truth for result, truth in zip(results, truths, strict=True)]
    changes = [
        np.abs(cv2.blur(after[:, :-STEP] - before[:, STEP:], (5, 5))).mean() for before, after in pairwise(errors)
    ]
    return 255 * float(np.mean(changes))


def score(truths: list[Frame], results: list[Frame]) -> float:
    """Mean PSNR over the frames, in dB."""
    pairs = zip(truths, results, strict=True)
    return float(np.mean([metrics.peak_signal_noise_ratio(truth, result, data_range=1) for truth, result in pairs]))


if __name__ == "__main__":
    raise SystemExit(main())
