"""Where a picture is wrong, in colours that can be read in grey as well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ERROR_SCALE = 0.25
"""Mean absolute error of the three channels, of values in [0, 1], at which the error map is brightest."""
# Dark for no error over violet and orange to pale yellow: rising lightness, so that it can be read in grey as well.
_COLOURS = np.array([(4, 4, 16), (72, 16, 108), (168, 42, 98), (236, 105, 52), (252, 186, 60), (252, 252, 190)], float)


def error_map(ours: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where two pictures differ.

    Args:
        ours: (H, W, 3) in 0..255.
        truth: likewise.

    Returns:
        (H, W, 3), dark where they agree, brightest from :data:`ERROR_SCALE` on.

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
