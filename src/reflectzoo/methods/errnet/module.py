"""Training of ERRNet: adversarial, from scratch or from a finished first phase."""

from __future__ import annotations

from typing import Any, Literal, cast

from reflectzoo.methods.errnet import METHOD
from reflectzoo.methods.errnet.convert import discriminator
from reflectzoo.methods.errnet.net import ERRNet, start_as_copy
from reflectzoo.training.adversarial import AdversarialModule
from reflectzoo.weights.layouts import start_from

_Start = Literal["default", "copy"]
"""Initialisation of a new network."""


class ERRNetModule(AdversarialModule):
    """Single image reflection removal exploiting misaligned training data (Wei et al., CVPR 2019), Sec. 4 and 5.

    The second phase (``experiment=errnet_unaligned``) is a separate run that starts from a finished first one, with
    other data, including unaligned pairs, and a restarted learning-rate schedule.

    Args:
        init: ``default``: PyTorch's initialisation, as in the program; ``copy``: the transmission starts as the
            mixture, for short training runs (see :func:`~reflectzoo.methods.errnet.net.start_as_copy`).
        stage1_ckpt: weights to start from: a checkpoint of reflectzoo or the authors' file. The discriminator is also
            taken over, if it fits that of the loss.
        **kwargs: as for :class:`~reflectzoo.training.adversarial.AdversarialModule`.

    Raises:
        UserError: for an unknown ``init``, or a ``stage1_ckpt`` that does not fit.
    """

    def __init__(self, *args: Any, init: _Start = "default", stage1_ckpt: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("init")
        if stage1_ckpt is not None:
            self._start_from(stage1_ckpt)
        elif init == "copy":
            start_as_copy(cast(ERRNet, self.net))

    def _start_from(self, path: str) -> None:
        checkpoint = start_from(self.net, path, "model.stage1_ckpt", METHOD)
        judge = None if self.adversarial_term is None else self.adversarial_term.discriminator
        known = discriminator(checkpoint)
        if judge is not None and {key: each.shape for key, each in judge.state_dict().items()} == {
            key: each.shape for key, each in known.items()
        }:
            judge.load_state_dict(known)
