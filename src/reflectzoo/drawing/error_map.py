"""Error maps, in colours that remain readable in greyscale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ERROR_SCALE = 0.25
"""Mean absolute error of the three channels, of values in [0, 1], at which the error map is brightest."""
# From dark for no error via violet and orange to pale yellow: lightness increases, so that greyscale shows it, too.
_COLOURS = np.array([(4, 4, 16), (72, 16, 108), (168, 42, 98), (236, 105, 52), (252, 186, 60), (252, 252, 190)], float)


def error_map(ours: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the difference of two pictures.

    Args:
        ours: (H, W, 3) in 0..255.
        truth: same shape and range.

    Returns:
        (H, W, 3) uint8, dark where they agree, brightest for errors of :data:`ERROR_SCALE` and above.

    Example:
        >>> same = np.full((2, 2, 3), 7, np.uint8)
        >>> error_map(same, same)[0, 0].tolist()
        [4, 4, 16]
    """
    error = np.abs(ours.astype(float) - truth.astype(float)).mean(axis=2) / (255 * ERROR_SCALE)
    positions = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(error, positions, _COLOURS[:, channel]) for channel in range(3)]
    coloured: NDArray[np.uint8] = np.stack(channels, axis=2).round().astype(np.uint8)
    return coloured
