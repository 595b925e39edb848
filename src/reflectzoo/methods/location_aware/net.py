"""The network of "Location-aware Single Image Reflection Removal" (Dong et al., ICCV 2021).

The input of each step is the photograph I and the previous estimate of the transmission. The step first locates the
reflection (a confidence map, from learnt Laplacian features at four scales), then predicts the reflection R, and from
both the transmission T. There are three steps, linked by the state of a convolutional LSTM and by T.

Module names are those of the authors' program (github.com/zdlarr/Location-aware-SIRR, a7d2592), except for the four
gates of the LSTM, which are one convolution here; ``convert.py`` joins them. Where paper and program differ, this code
follows the program; README.md beside this file lists the differences.

**Polarity.** The map inside the program is high where the *transmission* dominates: 1 - C of the paper. In this file it
is called ``visibility``; all outputs are ``confidence``, C = 1 - visibility, high where the *reflection* dominates.

Shortcuts that do not change the result, up to rounding: the four gates are one convolution; the first step, whose state
is zero, omits the state's half of that kernel and the forget gate; on a CPU all tensors are channels-last. Without
gradients the LSTM processes the image in bands, and on a CPU wide convolutions, including each upsampling step, use
Winograd's method (:mod:`reflectzoo.nets.winograd`). :func:`~reflectzoo.nets.plain.plain_form` disables the shortcuts,
as the reference for tests.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.nets.contextual import Upsampling, add_skip, conv_relu, image_head
from reflectzoo.nets.efficientnet import CHANNELS, EfficientNetLite0, OptionalFeatures, efficientnet_lite0
from reflectzoo.nets.plain import is_plain, must_not_overwrite
from reflectzoo.nets.recurrent import ConvLSTM, State
from reflectzoo.nets.sizes import prepare_input
from reflectzoo.nets.winograd import convolve

_STRIDE = 8  # of the pyramid's coarsest scale
_RESIDUAL = 0.1  # factor of a squeeze-and-excitation block's residual
_SCALES = (8, 4, 2, 1)

Detection = Literal["laplacian", "image", "none"]
Kernel = Literal["laplacian", "random", "edge"]


class Step(NamedTuple):
    """Output of one iteration; H and W are those of the image padded to multiples of 8.

    Attributes:
        state: state of the LSTM for the next iteration; None without LSTM.
        visibility: 1 - confidence, (B, 1, H, W) in (0, 1); None without detection.
        reflection: (B, 3, H, W) >= 0.
        quarter: coarse transmission, (B, 3, H / 4, W / 4) >= 0.
        half: coarse transmission, (B, 3, H / 2, W / 2) >= 0.
        transmission: (B, 3, H, W) >= 0.
    """

    state: State | None
    visibility: Tensor | None
    reflection: Tensor
    quarter: Tensor
    half: Tensor
    transmission: Tensor


# --------------------------------------------------------------------------------------------------------------------
# Blocks, with the authors' attribute names


class _Convolution(nn.Module):
    """3x3 convolution without bias, optionally with a PReLU of a single slope."""

    def __init__(self, channels: int, prelu: bool) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        if prelu:
            self.act = nn.PReLU()


class _SqueezeExcitation(nn.Module):
    """One weight per channel from its mean; (B, C, H, W) -> (B, C, 1, 1) in (0, 1)."""

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.se = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.se(x.mean(dim=(2, 3))))[:, :, None, None]


class _SEBlock(nn.Module):
    """Squeeze-and-excitation residual block; the caller applies the activation after the sum."""

    def __init__(self, channels: int, prelu: bool) -> None:
        super().__init__()
        self.conv1 = _Convolution(channels, prelu)
        self.conv2 = _Convolution(channels, prelu=False)
        self.se_layer = _SqueezeExcitation(channels)
        self.prelu = prelu

    def forward(self, x: Tensor) -> Tensor:
        slope = self.conv1.act if self.prelu else None
        y: Tensor = self.conv2.conv2d(_activated(self.conv1.conv2d(x), slope))
        weights: Tensor = self.se_layer(y)
        return x + _RESIDUAL * (y * weights) if must_not_overwrite() else y.mul_(_RESIDUAL * weights).add_(x)


class _ChannelWeights(nn.Module):
    """Weights of the channels from their means and maxima; (B, C, H, W) -> (B, C, 1, 1) in (0, 1)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc_1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc_2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True))
        # The second convolution is linear, so the sum of both branches can be taken before it.
        hidden = torch.stack([F.relu(self.fc_1(each)) for each in pooled]).sum(dim=0)
        return torch.sigmoid(self.fc_2(hidden))


class _PixelWeights(nn.Module):
    """Weights of the pixels from mean and maximum over channels; (B, C, H, W) -> (B, 1, H, W) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), 1)))


class _Attention(nn.Module):
    """Convolutional block attention (Woo et al., ECCV 2018): channels, then pixels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.channel_layer = _ChannelWeights(channels, hidden)
        self.spatial_layer = _PixelWeights()


class _CBAMBlock(nn.Module):
    """Residual block with convolutional block attention, without an activation after the sum."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(channels, prelu=False)
        self.conv2 = _Convolution(channels, prelu=False)
        self.cbam_layer = _Attention(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = convolve(self.conv2.conv2d, F.relu(convolve(self.conv1.conv2d, x), inplace=True))
        channels: Tensor = self.cbam_layer.channel_layer(y)
        y = y * channels if must_not_overwrite() else y.mul_(channels)
        pixels: Tensor = self.cbam_layer.spatial_layer(y)
        return y * pixels + x if must_not_overwrite() else y.mul_(pixels).add_(x)


class _Laplacian(nn.Module):
    """One learnt 3x3 kernel per channel of [I, T], applied at four scales, with the results resized to full size.

    Paper, equation 4. All scales share the kernel.

    Args:
        kind: initial kernel: ``laplacian``; ``random``, N(0, variance 0.02) (Table 2, "LKI -> RKI"); or ``edge``, two
            kernels per channel, the derivatives along x and y (Table 2, "Laplacian -> Edge").
        scales: 4, or 1 for full size only (Table 2, "MLSM -> SLSM").
        trained: whether the kernel is trained; False is Table 2's "Fix MLSM".
    """

    def __init__(self, kind: Kernel, scales: int, trained: bool) -> None:
        super().__init__()
        if kind == "random":
            kernel = torch.empty(6, 1, 3, 3).normal_(std=0.02**0.5)
        elif kind == "edge":
            along_x = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
            kernel = torch.stack((along_x, along_x.T))[:, None].repeat(6, 1, 1, 1)
        else:
            kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]).repeat(6, 1, 1, 1)
        self.kernel = nn.Parameter(kernel, requires_grad=trained)
        self.scales = _SCALES[len(_SCALES) - scales :]
        self.channels = scales * len(kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W), sides multiples of 8 -> (B, channels, H, W), coarse scales first."""
        return torch.cat([self._at(x, scale) for scale in self.scales], 1)

    def _at(self, x: Tensor, scale: int) -> Tensor:
        size = x.shape[-2:]
        if scale > 1:
            x = F.interpolate(x, (size[0] // scale, size[1] // scale), mode="bilinear", align_corners=False)
        x = F.conv2d(x, self.kernel, padding=1, groups=6)
        return x if scale == 1 else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _activated(x: Tensor, slope: nn.PReLU | None) -> Tensor:
    """Apply ReLU or a PReLU; in place where possible."""
    if slope is None:
        return F.relu(x, inplace=not is_plain())
    if must_not_overwrite() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return cast(Tensor, slope(x))
    # Equivalent for a single slope, and in place; on a GPU, reading the slope would synchronise with the device.
    return F.leaky_relu(x, float(slope.weight), inplace=True)


# --------------------------------------------------------------------------------------------------------------------


class LocationAwareNet(nn.Module):
    """Recurrent reflection removal with reflection detection.

    Paper Sec. 3, Fig. 2; classes LRM (one step) and LocationAwareSIRR (the recurrence) in the program, 10,925,719
    parameters. Images are not normalised.

    Args:
        width: channels of the LSTM and of the auto-encoder at full size, 64 as published; all others in proportion.
        iterations: 3 as published; weights do not depend on it.
        detection: source of the confidence map: multi-scale ``laplacian`` features; features of the ``image`` branch
            (Table 2, "C from I_ft"); ``none`` for no map (with ``suppression=False``: Table 2, "w/o RDM & TSM").
        suppression: whether the LSTM also gets the detection's features, with those of the transmission suppressed;
            False: the image features alone (Table 2, "w/o TSM").
        lstm: False: the reflection is predicted from the features directly, without a state (Table 2, "w/o LSTM").
        scales: 4, or 1 for full size only (Table 2, "MLSM -> SLSM").
        kernel: initial kernel: ``laplacian``, ``random`` ("LKI -> RKI") or ``edge`` ("Laplacian -> Edge").
        train_kernel: False: "Fix MLSM".
        features: additional features for the detection, an addition of reflectzoo. ``efficientnet_lite0``: maps of a
            frozen ImageNet network at strides 4 to 32, added by 1x1 convolutions before the detection's first block.
            :func:`begin` loads their weights for training from scratch; checkpoints contain them.

    Raises:
        UserError: for an invalid value, or ``detection="none"`` with ``suppression`` or ``features``.
    """

    @checked("model.net")
    def __init__(
        self,
        width: Annotated[int, Ge(2)] = 64,
        iterations: Count = 3,
        detection: Detection = "laplacian",
        suppression: bool = True,
        lstm: bool = True,
        scales: Literal[1, 4] = 4,
        kernel: Kernel = "laplacian",
        train_kernel: bool = True,
        features: OptionalFeatures = "none",
    ) -> None:
        super().__init__()
        _check(detection, suppression, features)
        self.width = width
        self.iterations = iterations
        self.detection = detection
        narrow = width // 2

        if detection == "laplacian":
            self.lap_pyramid = _Laplacian(kernel, scales, train_kernel)
        self.det_conv0 = conv_relu(6, narrow)
        self.det_conv1, self.det_conv2, self.det_conv3, self.det_conv4, self.det_conv4_1, self.det_conv4_2 = (
            _SEBlock(narrow, prelu=False) for _ in range(6)
        )
        if detection != "none":
            seen = self.lap_pyramid.channels if detection == "laplacian" else narrow
            self.det_conv5 = nn.Sequential(nn.Conv2d(seen, narrow, 3, padding=1), nn.PReLU())
            self.det_conv6, self.det_conv7, self.det_conv8 = (_SEBlock(narrow, prelu=True) for _ in range(3))
            if suppression:
                self.det_conv9, self.det_conv10, self.det_conv11 = (_SEBlock(narrow, prelu=True) for _ in range(3))
            self.p_relu = nn.PReLU()
            if features != "none":
                self.features = EfficientNetLite0()
                self.seen = nn.ModuleList(nn.Conv2d(channels, narrow, 1) for channels in CHANNELS[1:])
            self.det_conv_mask0 = nn.Sequential(
                nn.Conv2d(narrow, narrow, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(narrow, 1, 3, padding=1),
                nn.Sigmoid(),
            )
        self.suppression = suppression
        joined = 2 * narrow if suppression else narrow
        if lstm:
            self.lstm = ConvLSTM(joined, width)
            joined = width
        self.remembers = lstm
        self.det_conv_mask1 = nn.Sequential(
            nn.Conv2d(joined, narrow, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, 3, 3, padding=1),
            nn.ReLU(inplace=True),
        )

        w1, w2, w4 = width, 2 * width, 4 * width
        self.conv1 = conv_relu(9 if detection == "none" else 10, w1, kernel=5)
        self.conv2, self.conv3 = conv_relu(w1, w2, stride=2), conv_relu(w2, w2)
        self.conv4, self.conv5, self.conv6 = conv_relu(w2, w4, stride=2), conv_relu(w4, w4), conv_relu(w4, w4)
        self.diconv1, self.diconv2, self.diconv3, self.diconv4 = (
            conv_relu(w4, w4, dilation=dilation) for dilation in (2, 4, 8, 16)
        )
        self.conv7, self.conv8 = conv_relu(w4, w4), conv_relu(w4, w4)
        self.deconv1, self.conv9 = Upsampling(w4, w2), conv_relu(w2, w2)
        self.deconv2, self.conv10 = Upsampling(w2, w1), conv_relu(w1, narrow)
        self.outframe1, self.outframe2, self.output = conv_relu(w4, 3), conv_relu(w2, 3), conv_relu(narrow, 3)
        self.cbam_block0 = _CBAMBlock(w1, narrow)
        self.cbam_block1, self.cbam_block2 = (_CBAMBlock(w2, narrow) for _ in range(2))
        self.cbam_block3, self.cbam_block4, self.cbam_block5 = (_CBAMBlock(w4, narrow) for _ in range(3))

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; sides that are not multiples of 8 are padded by
                reflection and the results cropped. (The program resizes the image instead.)

        Returns:
            ``transmission`` and ``reflection`` (B, 3, H, W) >= 0 of the last iteration. ``aux`` has lists with one
            entry per iteration: ``transmission`` and ``reflection``, as above; ``confidence`` (B, 1, H, W) in (0, 1),
            with the paper's polarity: 1 where the reflection dominates (absent with ``detection="none"``); and the
            coarse transmissions ``quarter`` (B, 3, ceil(H / 4), ceil(W / 4)) and ``half`` (B, 3, ceil(H / 2),
            ceil(W / 2)). In the dtype of the weights, also under autocast.
        """
        image = prepare_input(mixture, _STRIDE)
        height, width = mixture.shape[-2:]
        lists: dict[str, list[Tensor]] = {"transmission": [], "reflection": [], "confidence": []}
        lists |= {"quarter": [], "half": []}
        previous, state = image, None
        known = self._known(image)
        for _ in range(self.iterations):
            step = self.step(image, previous, state, known)
            previous, state = step.transmission, step.state
            lists["transmission"].append(step.transmission[..., :height, :width])
            lists["reflection"].append(step.reflection[..., :height, :width])
            if step.visibility is not None:
                lists["confidence"].append(1 - step.visibility[..., :height, :width])
            lists["quarter"].append(step.quarter[..., : -(-height // 4), : -(-width // 4)])
            lists["half"].append(step.half[..., : -(-height // 2), : -(-width // 2)])
        return {
            "transmission": lists["transmission"][-1],
            "reflection": lists["reflection"][-1],
            "aux": {name: each for name, each in lists.items() if each},
        }

    def detect(self, mixture: Tensor) -> Tensor:
        """Compute only the confidence map of the first iteration.

        Args:
            mixture: as for :meth:`forward`.

        Returns:
            (B, 1, H, W) in (0, 1), equal to ``aux["confidence"][0]`` of :meth:`forward`.

        Raises:
            UserError: if ``detection`` is ``none``.
        """
        if self.detection == "none":
            raise UserError("Location-aware SIRR: with model.net.detection=none there is no confidence map.")
        image = prepare_input(mixture, _STRIDE)
        both = torch.cat((image, image), 1)
        x = both if self.detection == "laplacian" else self._image_features(both)
        _, visibility = self._locate(x, self._known(image))
        return 1 - visibility[..., : mixture.shape[-2], : mixture.shape[-1]]

    @property
    def looks_up(self) -> bool:
        """Whether the detection also uses ImageNet features."""
        return hasattr(self, "features")

    def _known(self, image: Tensor) -> Tensor | None:
        """Contribution of the ImageNet features to the detection's, the same in every iteration; None without them."""
        if not self.looks_up:
            return None
        # Scaled because their values are of the order of ten.
        known = (0.1 * each for each in self.features(image)[1:])
        maps = [convolution(each) for convolution, each in zip(self.seen, known, strict=True)]
        finest = maps[0].shape[-2:]
        total = maps[0]
        for each in maps[1:]:
            total = total + F.interpolate(each, finest, mode="bilinear", align_corners=False)
        return F.interpolate(total, image.shape[-2:], mode="bilinear", align_corners=False)

    def step(self, image: Tensor, previous: Tensor, state: State | None = None, known: Tensor | None = None) -> Step:
        """Compute one iteration; paper, equations 2 and 3.

        Args:
            image: I, (B, 3, H, W), sides multiples of 8.
            previous: T of the previous iteration, same shape; I itself in the first.
            state: state after the previous iteration; None in the first.
            known: contribution of the ImageNet features, (B, width / 2, H, W), if the network uses any.
        """
        both = torch.cat((image, previous), 1)
        features, visibility = self._detect(both, known)
        state = self.lstm(features, state) if self.remembers else None
        reflection = image_head(self.det_conv_mask1, features if state is None else state.hidden)
        seen = [both, reflection] if visibility is None else [both, reflection, visibility]
        quarter, half, transmission = self._restore(torch.cat(seen, 1))
        return Step(state, visibility, reflection, quarter, half, transmission)

    def _detect(self, both: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features for the LSTM, and the visibility map."""
        x = self._image_features(both)
        if self.detection == "none":
            return x, None
        y, visibility = self._locate(both if self.detection == "laplacian" else x, known)
        if not self.suppression:
            return x, visibility
        for block in (self.det_conv9, self.det_conv10, self.det_conv11):
            y = _activated(block(y), self.p_relu)
        return torch.cat((x, y * (1 - visibility)), 1), visibility

    def _image_features(self, both: Tensor) -> Tensor:
        x = self.det_conv0(both)
        for block in (self.det_conv1, self.det_conv2, self.det_conv3, self.det_conv4, self.det_conv4_1):
            x = _activated(block(x), None)
        return _activated(self.det_conv4_2(x), None)

    def _locate(self, x: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The detection's features and 1 - C, computed from [I, T] or from the image branch's features."""
        y = self.det_conv5(self.lap_pyramid(x) if self.detection == "laplacian" else x)
        if known is not None:
            y = y + known
        for block in (self.det_conv6, self.det_conv7, self.det_conv8):
            y = _activated(block(y), self.p_relu)
        return y, image_head(self.det_conv_mask0, y)

    def _restore(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the contextual auto-encoder: transmissions at 1/4, 1/2 and full size."""
        full = self.cbam_block0(self.conv1(x))
        half = self.cbam_block2(self.cbam_block1(self.conv3(self.conv2(full))))
        x = self.conv6(self.conv5(self.conv4(half)))
        x = self.cbam_block5(self.cbam_block4(self.cbam_block3(x)))
        x = self.diconv4(self.diconv3(self.diconv2(self.diconv1(x))))
        x = self.conv8(self.conv7(x))
        frame1 = image_head(self.outframe1, x)
        x = self.conv9(add_skip(self.deconv1(x), half))
        frame2 = image_head(self.outframe2, x)
        x = self.conv10(add_skip(self.deconv2(x), full))
        return frame1, frame2, image_head(self.output, x)


def begin(net: nn.Module) -> None:
    """Load the ImageNet weights of a new network's frozen features, if it uses any.

    Raises:
        UserError: if they are not installed or not the published ones.
    """
    if isinstance(net, LocationAwareNet) and net.looks_up:
        net.features.load_state_dict(efficientnet_lite0().state_dict())


def _check(detection: str, suppression: bool, features: str) -> None:
    """Raise UserError for invalid combinations of arguments of :class:`LocationAwareNet`."""
    if detection == "none" and suppression:
        raise UserError(
            "Location-aware SIRR: with model.net.detection=none there are no features to suppress: also set "
            "model.net.suppression=false."
        )
    if detection == "none" and features != "none":
        raise UserError("Location-aware SIRR: model.net.features are for the detection: set model.net.detection, too.")
