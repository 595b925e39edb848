"""Training of IBCLN: adversarial, with the authors' weight initialisation."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from reflectzoo.methods.ibcln.net import IBCLNNet
from reflectzoo.nets.start import init_as_copy, start_he, start_normal, weight_of
from reflectzoo.training.adversarial import AdversarialModule

_Start = Literal["normal", "copy"]
"""Initialisation of a new network."""


class IBCLN(AdversarialModule):
    """Single Image Reflection Removal through Cascaded Refinement (Li et al., CVPR 2020), trained end to end.

    Args:
        init: initialisation of a new network. ``normal``: weights from N(0, ``init_std``^2), zero biases, as in the
            program; ``copy``: weights after He et al., with every transmission starting as a copy of the input, for
            short training runs (see :func:`start_as_copy`).
        init_std: standard deviation for ``normal``.
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
    """Initialise after He et al., but with every transmission equal to the mixture and every reflection near 0.1.

    The reflection does not start at zero, where its ReLU and the power in its loss would give no gradient.

    Args:
        net: changed in place.

    Raises:
        UserError: if a layer has fewer than three channels to carry the image.
    """
    start_he(net)
    part = net.G_T
    first, up, last, output = (cast(Any, layer)[0] for layer in (part.conv1, part.deconv2, part.conv10, part.output))
    init_as_copy(first, up, last, output, channel=0)
    output = net.G_R.output[0]
    weight_of(output).mul_(0.1)
    nn.init.constant_(cast(Tensor, output.bias), 0.1)
