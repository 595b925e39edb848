"""Two stages: a second network refines the results of the first."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Outputs
from reflectzoo.methods.ytmt.blocks import Pattern
from reflectzoo.methods.ytmt.net import YTMTUNet
from reflectzoo.methods.ytmt.released import YTMTReleasedUNet
from reflectzoo.nets.shared_vgg import FeatureNet


class TwoStage(nn.Module):
    """YTMT-UCT and YTMT-UAT: a second network of the same kind refines the two layers predicted by the first.

    Paper Sec. 3.2. The input of stage 1 (``icnn``) is the mixture in both streams; that of stage 2 (``icnn2``) is T1 in
    the l stream and R1 in the r stream, without the mixture. The second stage is trained after the first, which is then
    frozen. The attribute names are those of the entries in the authors' files.

    In stage 1 the second network is not used by ``forward``, in stage 2 the first gets no gradient; under DDP either
    needs ``find_unused_parameters=True``. The active stage is not part of ``state_dict`` and must be set after loading.

    Args:
        icnn: stage 1; its ``forward`` accepts one or two images.
        icnn2: stage 2; defaults to a copy of the first (an attached VGG stays shared).
        active_stage: 1 while the first stage is being trained, 2 from then on.

    Raises:
        ValueError: if ``active_stage`` is neither 1 nor 2.
    """

    def __init__(self, icnn: nn.Module, icnn2: nn.Module | None = None, active_stage: int = 1) -> None:
        super().__init__()
        self.icnn = icnn
        self.icnn2 = icnn2 if icnn2 is not None else copy.deepcopy(icnn)
        self._stage1_trains = frozenset(name for name, p in icnn.named_parameters() if p.requires_grad)
        self._active_stage = 1
        self.set_active_stage(active_stage)

    @property
    def active_stage(self) -> int:
        """The last stage that runs: 1 or 2."""
        return self._active_stage

    def set_active_stage(self, stage: int) -> None:
        """Set the last stage that runs; stage 1 is frozen while stage 2 is active. Weights do not change.

        Raises:
            ValueError: if ``stage`` is neither 1 nor 2.
        """
        if stage not in (1, 2):
            raise ValueError(f"TwoStage: the active stage must be 1 or 2, got {stage!r}")
        self._active_stage = stage
        for name, parameter in self.icnn.named_parameters():
            parameter.requires_grad_(stage == 1 and name in self._stage1_trains)
            if stage == 2:
                parameter.grad = None

    def start_stage2(self) -> None:
        """Copy the weights of stage 1 into stage 2, in place, freeze stage 1 and activate stage 2."""
        self.icnn2.load_state_dict(self.icnn.state_dict())
        self.set_active_stage(2)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1.

        Returns:
            ``transmission`` and ``reflection`` of the last active stage, (B, 3, H, W) in (0, 1); in stage 2 also
            ``stages`` with those of stage 1, which carry no gradient.
        """
        if self._active_stage == 1:
            return cast(Outputs, self.icnn(mixture))
        # The program leaves stage 1 in training mode here, which makes no difference: no normalisation, no dropout.
        with torch.no_grad():
            first = self.icnn(mixture)
        transmission, reflection = first["transmission"], first["reflection"]
        outputs: Outputs = self.icnn2(transmission, reflection)
        return {**outputs, "stages": [{"transmission": transmission, "reflection": reflection}]}


def two_stage_unet(
    pattern: Pattern = "C",
    in_channels: Count | None = None,
    hypercolumn: bool = True,
    width: Count = 64,
    out_channels: Count = 3,
    features: FeatureNet = "vgg19",
) -> TwoStage:
    """Make a :class:`TwoStage` of two :class:`~reflectzoo.methods.ytmt.net.YTMTUNet`, whose arguments these are."""
    return TwoStage(YTMTUNet(pattern, in_channels, hypercolumn, width, out_channels, features))


def two_stage_released(
    in_channels: Count | None = None, hypercolumn: bool = True, width: Count = 64, out_channels: Count = 3
) -> TwoStage:
    """Make a :class:`TwoStage` of two :class:`~reflectzoo.methods.ytmt.released.YTMTReleasedUNet`."""
    return TwoStage(YTMTReleasedUNet(in_channels, hypercolumn, width, out_channels))


def set_phase(net: nn.Module, phase: int) -> None:
    """Activate the stage of a training phase, 0 or 1; one-stage networks are unaffected."""
    if isinstance(net, TwoStage):
        net.set_active_stage(phase + 1)
