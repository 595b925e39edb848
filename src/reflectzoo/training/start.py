"""Initial weights of a training run: random ones, or trained ones to fine-tune."""

from __future__ import annotations

from pathlib import Path

from reflectzoo.core.registry import find_method
from reflectzoo.errors import UserError
from reflectzoo.inference.load import find_source, open_file
from reflectzoo.training.module import ReflectionModule

PACKAGED = "packaged"
"""Value of ``weights`` that selects the model's packaged weights."""


def give_first_weights(model: ReflectionModule, weights: str | None) -> None:
    """Load the initial weights of a new training run; a resumed run takes its weights from its checkpoint.

    Args:
        model: the configured module; its network is changed in place.
        weights: None to train from scratch; ``packaged``; or a file, a URL or a listed name, as accepted by
            :func:`reflectzoo.load_model`.

    Raises:
        UserError: if there are no such weights, or they do not fit the configured network.
    """
    if weights is None:
        method = find_method(model.name)
        if method is not None:
            method.begin_training(model.net)
        return
    wanted = None if str(weights) == PACKAGED and not Path(PACKAGED).exists() else str(weights)
    source = find_source(model.name, wanted)
    if source is None:
        raise UserError(
            f"model={model.name} has no packaged weights to start from: give weights=FILE, or leave it out to train "
            "from scratch."
        )
    net = open_file(source.path).net
    have, want = net.state_dict(), model.net.state_dict()
    for name, value in want.items():
        if name not in have or have[name].shape != value.shape:
            found = f"{tuple(have[name].shape)}" if name in have else "missing"
            raise UserError(
                f"weights={weights} belong to a different network from the configured model={model.name}: {name} is "
                f"{found} there and {tuple(value.shape)} here; leave the settings of model.net as the weights have "
                "them."
            )
    model.net.load_state_dict({name: have[name] for name in want})
