"""Reduce flicker in videos by averaging the correction of each frame over time, along the optical flow."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.float32]
"""(H, W, 3) in [0, 1]."""

_FLOW_SIDE = 320
"""Longer side in pixels at which optical flow is computed."""
_ALIKE = 0.06
"""Values that differ by this much or more are not averaged."""


class TemporalSmoother:
    """Averages corrections over time, aligned with the current frame.

    A network processes each frame independently, so that its corrections flicker. The previous correction is warped
    along the optical flow between both mixtures (DIS, Kroeger et al., ECCV 2016, from OpenCV) and blended into the new
    one wherever the warped mixture resembles the new one; elsewhere something was uncovered or changed.

    Args:
        share: weight of the previous frame, in [0, 1); 0 disables averaging.
    """

    def __init__(self, share: float = 0.7) -> None:
        self.share = share
        self.before: tuple[Frame, Frame] | None = None
        """Mixture and averaged correction of the previous frame."""

    def step(self, mixture: Frame, correction: Frame) -> Frame:
        """Average the correction of the next frame with the previous ones.

        Args:
            mixture: (H, W, 3) in [0, 1].
            correction: (H, W, 3), transmission minus mixture.

        Returns:
            The averaged correction, (H, W, 3).
        """
        if self.before is not None and self.share > 0 and self.before[0].shape == mixture.shape:
            earlier, removed = self.before
            grid = _grid(mixture, earlier)
            moved = cv2.remap(earlier, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            wanted = cv2.remap(removed, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            apart = cv2.blur(np.abs(moved - mixture).max(axis=2), (5, 5))
            weight = (self.share * np.clip(2 - apart / (_ALIKE / 2), 0, 1))[..., None].astype(np.float32)
            correction = correction + weight * (wanted - correction)
        self.before = (mixture, correction)
        return correction

    def state(self) -> dict[str, Any]:
        """Arrays from which :meth:`resume` can continue later; empty before the first frame."""
        if self.before is None:
            return {}
        return {"mixture": self.before[0], "correction": self.before[1]}

    def resume(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state`."""
        self.before = (state["mixture"], state["correction"]) if "mixture" in state else None


def _grid(now: Frame, before: Frame) -> tuple[Frame, Frame]:
    """Position of each pixel in the previous frame: columns and rows, each (H, W)."""
    height, width = now.shape[:2]
    scale = min(_FLOW_SIDE / max(height, width), 1.0)
    small = (max(round(width * scale), 16), max(round(height * scale), 16))
    greys = [
        cv2.resize(cv2.cvtColor((each * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY), small, interpolation=cv2.INTER_AREA)
        for each in (now, before)
    ]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(greys[0], greys[1], None)  # type: ignore[call-overload]
    flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return columns + flow[..., 0] * (width / small[0]), rows + flow[..., 1] * (height / small[1])
