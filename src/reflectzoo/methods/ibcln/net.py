"""The network of "Single Image Reflection Removal through Cascaded Refinement" (Li et al., CVPR 2020).

Two networks of the same architecture alternate, three times: the first predicts the transmission T from the photograph
I and the previous estimates of both layers, the second then predicts the reflection R from I, the new T and the
previous R. Each has a convolutional LSTM of its own, whose state persists between iterations.

Module names are those of the authors' program (github.com/JHL-HUST/IBCLN, 66056ff), whose two files are ``G_T`` and
``G_R`` here, except for the four gates of each LSTM, which are one convolution; ``convert.py`` merges them.

Shortcuts that do not change the result, up to rounding: the gates are one convolution; the first iteration, whose state
is zero, omits the state's half of that kernel and the forget gate; on a CPU all tensors are channels-last. Without
gradients the LSTM processes the image in bands, and on a CPU wide convolutions, including each upsampling step, use
Winograd's method (:mod:`reflectzoo.nets.winograd`). :func:`~reflectzoo.nets.plain.plain_form` disables the shortcuts,
as the reference for tests.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count, Fraction
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.nets.contextual import Upsampling, add_skip, conv_relu, image_head
from reflectzoo.nets.recurrent import ConvLSTM, State
from reflectzoo.nets.sizes import prepare_input

_STRIDE = 4  # two convolutions of stride 2
_FIRST_REFLECTION = 0.1  # R before the first iteration, at every pixel


class Turn(NamedTuple):
    """Output of one network in one iteration; H and W are those of the image padded to multiples of 4.

    Attributes:
        state: state of the LSTM for the next iteration.
        image: (B, 3, H, W) >= 0.
        half: the image at half size, (B, 3, H / 2, W / 2) >= 0.
        quarter: the image at a quarter of the size, (B, 3, H / 4, W / 4) >= 0.
    """

    state: State
    image: Tensor
    half: Tensor
    quarter: Tensor


class Generator(nn.Module):
    """A contextual auto-encoder with an LSTM at a quarter of the size; ``Generator_drop`` in the program.

    Args:
        width: channels at full size, 64 as published (10,804,169 parameters); two and four times as many at half and a
            quarter of the size.
        dropout: probability of the only dropout, after the last convolution at half size.
        coarse: whether the heads of the coarse images are trained.
    """

    def __init__(self, width: int = 64, dropout: float = 0.3, coarse: bool = True) -> None:
        super().__init__()
        w1, w2, w4 = width, 2 * width, 4 * width
        self.dropout = dropout
        self.conv1 = conv_relu(9, w1, kernel=5)
        self.conv2, self.conv3 = conv_relu(w1, w2, stride=2), conv_relu(w2, w2)
        self.conv4, self.conv5, self.conv6 = conv_relu(w2, w4, stride=2), conv_relu(w4, w4), conv_relu(w4, w4)
        self.diconv1, self.diconv2, self.diconv3, self.diconv4 = (
            conv_relu(w4, w4, dilation=dilation) for dilation in (2, 4, 8, 16)
        )
        self.conv7 = conv_relu(w4, w4)
        self.lstm = ConvLSTM(w4, w4)
        self.conv8 = conv_relu(w4, w4)
        self.deconv1, self.conv9 = Upsampling(w4, w2), conv_relu(w2, w2)
        self.deconv2, self.conv10 = Upsampling(w2, w1), conv_relu(w1, max(width // 2, 3))
        self.outframe1, self.outframe2 = conv_relu(w4, 3), conv_relu(w2, 3)
        self.output = conv_relu(max(width // 2, 3), 3)
        for head in (self.outframe1, self.outframe2):
            head.requires_grad_(coarse)

    def forward(self, x: Tensor, state: State | None = None) -> Turn:
        """Compute one iteration.

        Args:
            x: I and the previous T and R, (B, 9, H, W), sides multiples of 4.
            state: state after the previous iteration; None for the first.
        """
        full, half, state, x = self._remember(x, state)
        x = self.conv8(x)
        coarse = image_head(self.outframe1, x)
        x = F.dropout(self.conv9(add_skip(self.deconv1(x), half)), self.dropout, self.training)
        finer = image_head(self.outframe2, x)
        return Turn(state, self._finish(x, full), finer, coarse)

    def image(self, x: Tensor, state: State | None = None) -> tuple[State, Tensor]:
        """The same as :meth:`forward`, without the coarse images."""
        full, half, state, x = self._remember(x, state)
        x = self.conv9(add_skip(self.deconv1(self.conv8(x)), half))
        return state, self._finish(F.dropout(x, self.dropout, self.training), full)

    def _remember(self, x: Tensor, state: State | None) -> tuple[Tensor, Tensor, State, Tensor]:
        """Run encoder and LSTM: features at full and half size for the skips, the new state, and its hidden part."""
        full = self.conv1(x)
        half = self.conv3(self.conv2(full))
        x = self.conv6(self.conv5(self.conv4(half)))
        x = self.conv7(self.diconv4(self.diconv3(self.diconv2(self.diconv1(x)))))
        state = self.lstm(x, state)
        return full, half, state, state.hidden

    def _finish(self, x: Tensor, full: Tensor) -> Tensor:
        return image_head(self.output, self.conv10(add_skip(self.deconv2(x), full)))


class IBCLNNet(nn.Module):
    """The cascade of two alternating networks.

    Paper Sec. 3, Fig. 2; 21,608,338 parameters. Images are not normalised.

    Args:
        width: width of both networks, see :class:`Generator`.
        iterations: 3 as published; weights do not depend on it.
        dropout: dropout of both networks, see :class:`Generator`. (The authors' test command fails to disable it.)

    Raises:
        UserError: for a width below 2, no iterations, or a dropout outside [0, 1).
    """

    @checked("model.net")
    def __init__(self, width: Annotated[int, Ge(2)] = 64, iterations: Count = 3, dropout: Fraction = 0.3) -> None:
        super().__init__()
        self.width = width
        self.iterations = iterations
        self.G_T = Generator(width, dropout)
        # No loss uses coarse reflections, so their heads are never trained.
        self.G_R = Generator(width, dropout, coarse=False)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; sides that are not multiples of 4 are padded by
                reflection and the results cropped. (The program resizes the image instead.)

        Returns:
            ``transmission`` and ``reflection`` (B, 3, H, W) >= 0 of the last iteration. ``aux`` has lists with one
            entry per iteration: ``transmission`` and ``reflection``, as above, and the coarse transmissions ``quarter``
            (B, 3, ceil(H / 4), ceil(W / 4)) and ``half`` (B, 3, ceil(H / 2), ceil(W / 2)). In the dtype of the weights,
            also under autocast.
        """
        image = prepare_input(mixture, _STRIDE)
        height, width = mixture.shape[-2:]
        transmission, reflection = image, torch.full_like(image, _FIRST_REFLECTION)
        lists: dict[str, list[Tensor]] = {"transmission": [], "reflection": [], "quarter": [], "half": []}
        seen: State | None = None
        reflected: State | None = None
        for _ in range(self.iterations):
            turn = self.G_T(torch.cat((image, transmission, reflection), 1), seen)
            seen, transmission = turn.state, turn.image
            reflected, reflection = self.G_R.image(torch.cat((image, transmission, reflection), 1), reflected)
            lists["transmission"].append(transmission[..., :height, :width])
            lists["reflection"].append(reflection[..., :height, :width])
            lists["quarter"].append(turn.quarter[..., : -(-height // 4), : -(-width // 4)])
            lists["half"].append(turn.half[..., : -(-height // 2), : -(-width // 2)])
        return {
            "transmission": lists["transmission"][-1],
            "reflection": lists["reflection"][-1],
            "aux": dict(lists),
        }
