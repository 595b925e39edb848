"""IBCLN's training: like any adversarial method's, from weights that its program starts from."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from reflectzoo.methods.ibcln.net import IBCLNNet
from reflectzoo.nets.start import hand_on, start_he, start_normal, weight_of
from reflectzoo.training.adversarial import AdversarialModule

_Start = Literal["normal", "copy"]
"""What a new network starts from."""


class IBCLN(AdversarialModule):
    """Single Image Reflection Removal through Cascaded Refinement (Li et al., CVPR 2020): trained end to end.

    Args:
        init: what a new network starts from. ``normal``: weights from N(0, ``init_std``^2), biases 0, as the program
            has it; ``copy``: weights after He et al., and every transmission starts as a copy of the input, for short
            trainings (see :func:`start_as_copy`).
        init_std: standard deviation of ``normal``.
        **kwargs: as for :class:`~reflectzoo.training.adversarial.AdversarialModule`.

    Raises:
        UserError: for an unknown ``init``.
    """

    def __init__(self, *args: Any, init: _Start = "normal", init_std: float = 0.02, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("init", "init_std")
        if init == "normal":
            start_normal(self.net, init_std)
        else:
            start_as_copy(cast(IBCLNNet, self.net))


def start_as_copy(net: IBCLNNet) -> None:
    """Every transmission starts as the mixture, every reflection near 0.1; all other weights after He et al.

    The reflection does not start black: under its rectifier and the power of its loss it would get no gradient.

    Args:
        net: is changed in place.
    """
    start_he(net)
    part = net.G_T
    first, up, last, output = (cast(Any, layer)[0] for layer in (part.conv1, part.deconv2, part.conv10, part.output))
    hand_on(first, up, last, output, channel=0)
    output = net.G_R.output[0]
    weight_of(output).mul_(0.1)
    nn.init.constant_(cast(Tensor, output.bias), 0.1)
