"""Training of BDN: adversarial, with pix2pix's weight initialisation."""

from __future__ import annotations

from typing import Any

from reflectzoo.nets.start import start_normal
from reflectzoo.training.adversarial import AdversarialModule


class BDN(AdversarialModule):
    """Seeing Deeply and Bidirectionally (Yang et al., ECCV 2018), with all three parts trained together.

    Args:
        init_std: standard deviation of the initial weights, N(0, init_std^2) with zero biases; None keeps PyTorch's
            initialisation.
        **kwargs: as for :class:`~reflectzoo.training.adversarial.AdversarialModule`.
    """

    def __init__(self, *args: Any, init_std: float | None = 0.02, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("init_std")
        if init_std is not None:
            start_normal(self.net, init_std)
