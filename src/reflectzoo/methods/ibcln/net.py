"""The network of "Single Image Reflection Removal through Cascaded Refinement" (Li et al., CVPR 2020).

Two networks of one form take turns, three times: the first estimates the transmission T of the photograph I and of the
last estimates of both layers, the second then the reflection R of I, the new T and the last R. Each has a convolutional
LSTM of its own, which remembers from turn to turn.

Module names are those of the authors' program (github.com/JHL-HUST/IBCLN, 66056ff), whose two files are ``G_T`` and
``G_R`` here, but for the four gates of each LSTM, which are one convolution; ``convert.py`` puts all of it together.

Shortcuts that leave the numbers as they are: the gates are one convolution; the first turn's memory is empty, so
neither its half of that kernel nor the forget gate is computed; on a CPU everything is channels-last. Without gradients
the LSTM goes over the picture in bands, and on a CPU wide convolutions follow Winograd, an upsampling step being one of
them (:mod:`reflectzoo.nets.winograd`). :func:`~reflectzoo.nets.plain.plain_form` switches all of it off, which the
tests compare with.
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
from reflectzoo.nets.sizes import prepared

_STRIDE = 4  # two convolutions of stride 2
_FIRST_REFLECTION = 0.1  # R before the first turn, everywhere


class Turn(NamedTuple):
    """What one network makes in one turn; sizes are those of an image that was padded to multiples of 4.

    Attributes:
        state: for its next turn.
        image: (B, 3, H, W) >= 0.
        half: the image at half size, (B, 3, H / 2, W / 2) >= 0.
        quarter: at a quarter of the size, (B, 3, H / 4, W / 4) >= 0.
    """

    state: State
    image: Tensor
    half: Tensor
    quarter: Tensor


class Generator(nn.Module):
    """A contextual auto-encoder with a memory at a quarter of the size; ``Generator_drop`` of the program.

    Args:
        width: channels at full size, 64 as published (10,804,169 parameters); two and four times as many at half and a
            quarter of the size.
        dropout: probability of the one dropout, after the last convolution at half size.
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
        """One turn.

        Args:
            x: I and the last T and R, (B, 9, H, W), multiples of 4.
            state: of the turn before; None at the start.
        """
        full, half, state, x = self._remember(x, state)
        x = self.conv8(x)
        coarse = image_head(self.outframe1, x)
        x = F.dropout(self.conv9(add_skip(self.deconv1(x), half)), self.dropout, self.training)
        finer = image_head(self.outframe2, x)
        return Turn(state, self._finish(x, full), finer, coarse)

    def image(self, x: Tensor, state: State | None = None) -> tuple[State, Tensor]:
        """As :meth:`forward`, without the coarse images."""
        full, half, state, x = self._remember(x, state)
        x = self.conv9(add_skip(self.deconv1(self.conv8(x)), half))
        return state, self._finish(F.dropout(x, self.dropout, self.training), full)

    def _remember(self, x: Tensor, state: State | None) -> tuple[Tensor, Tensor, State, Tensor]:
        """Features at full and half size for the skips, the new state, and its hidden half to go on with."""
        full = self.conv1(x)
        half = self.conv3(self.conv2(full))
        x = self.conv6(self.conv5(self.conv4(half)))
        x = self.conv7(self.diconv4(self.diconv3(self.diconv2(self.diconv1(x)))))
        state = self.lstm(x, state)
        return full, half, state, state.hidden

    def _finish(self, x: Tensor, full: Tensor) -> Tensor:
        return image_head(self.output, self.conv10(add_skip(self.deconv2(x), full)))


class IBCLNNet(nn.Module):
    """The cascade: two networks that take turns.

    Paper Sec. 3, Fig. 2; 21,608,338 parameters. Images enter as they are, in [0, 1].

    Args:
        width: of both networks, see :class:`Generator`.
        iterations: 3 as published; any number works with any weights.
        dropout: likewise. (The released test command forgets to switch it off.)

    Raises:
        UserError: for a width below 2, no iterations, or a dropout outside [0, 1).
    """

    @checked("model.net")
    def __init__(self, width: Annotated[int, Ge(2)] = 64, iterations: Count = 3, dropout: Fraction = 0.3) -> None:
        super().__init__()
        self.width = width
        self.iterations = iterations
        self.G_T = Generator(width, dropout)
        # No loss looks at coarse reflections, so the heads that would make them never learn.
        self.G_R = Generator(width, dropout, coarse=False)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; sizes that are no multiples of 4 are continued by
                reflection and the results are cut back. (The program resizes the image instead.)

        Returns:
            ``transmission`` and ``reflection`` (B, 3, H, W) >= 0 of the last iteration. ``aux`` has one entry for each
            iteration in each of the lists ``transmission``, ``reflection`` (likewise), and the coarse transmissions
            ``quarter`` (B, 3, ceil(H / 4), ceil(W / 4)) and ``half`` (B, 3, ceil(H / 2), ceil(W / 2)). Float32 whatever
            the precision.
        """
        image = prepared(mixture, _STRIDE)
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
