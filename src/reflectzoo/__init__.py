"""reflectzoo: a PyTorch Lightning model zoo for removing reflections from photographs taken through glass.

>>> import reflectzoo
>>> "ytmt_uct" in reflectzoo.list_models()
True
>>> model = reflectzoo.create_model("ytmt_ucs", "model.net.width=8", "model.net.hypercolumn=false", "loss=pixel")
>>> import torch
>>> outputs = model(torch.rand(1, 3, 33, 47))
>>> outputs["transmission"].shape
torch.Size([1, 3, 33, 47])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reflectzoo.inference.api import separate
    from reflectzoo.inference.load import LoadedModel
    from reflectzoo.training.module import ReflectionModule

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "load_model", "separate"]


def list_models() -> list[str]:
    """Names of all models, the options of ``model=`` on the command line."""
    from reflectzoo.core.registry import model_names

    return model_names()


def create_model(name: str, *overrides: str) -> ReflectionModule:
    """Build a model with random weights from its configuration, for training or inference.

    Args:
        name: one of :func:`list_models`.
        *overrides: overrides as on the command line, e.g. ``"model.net.width=32"``, ``"model.vgg=random"`` or
            ``"loss=pixel"``.

    Returns:
        A LightningModule in evaluation mode, on the CPU.

    Raises:
        UserError: if there is no such model or setting, or its VGG cannot be loaded.
    """
    from reflectzoo.cli import user_sentences
    from reflectzoo.config import build, compose_config, plain

    words = [f"model={name}", *overrides]
    with user_sentences(*words):
        config = compose_config(words)
        model: ReflectionModule = build(config.model)
    model.config = plain(config.model)
    model.attach_vgg()
    return model.eval()


def load_model(
    model: str | Path, weights: str | Path | None = None, *overrides: str, untrained: bool = False
) -> LoadedModel:
    """Load a trained model for inference: a plain ``nn.Module``, in evaluation mode, on the CPU.

    Args:
        model: one of :func:`list_models`; or, without ``weights``, a weights file, from which the model is recognised.
        weights: a checkpoint from ``reflectzoo.train``, a safetensors file from ``reflectzoo convert``, a file of the
            authors, the name of weights listed by ``reflectzoo models``, or a URL whose file name contains its sha256;
            None takes the model's default weights.
        *overrides: overrides of the model's configuration, for a file that does not record it, e.g.
            ``"model.net.iterations=2"``.
        untrained: without ``weights``, initialise the model randomly.

    Raises:
        UserError: if there are no weights, or the file is missing, damaged, would execute code, or does not fit.
    """
    from reflectzoo.inference.load import load, load_file

    name = str(model)
    if weights is None and name not in list_models():
        return load_file(Path(model).expanduser(), None, overrides)
    return load(name, weights, overrides, untrained)


def __getattr__(name: str) -> object:
    # Imported lazily, since it loads Pillow, OpenCV and others.
    if name == "separate":
        from reflectzoo.inference.api import separate

        return separate
    raise AttributeError(f"module 'reflectzoo' has no attribute '{name}'")
