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
    """Names of the methods: what ``model=`` takes on the command line."""
    from reflectzoo.core.registry import model_names

    return model_names()


def create_model(name: str, *overrides: str) -> ReflectionModule:
    """A method with fresh weights, as its configuration has it; a LightningModule that is ready to look or to train.

    Args:
        name: one of :func:`list_models`.
        *overrides: as on the command line, e.g. ``"model.net.width=32"``, ``"model.vgg=random"``, ``"loss=pixel"``.

    Raises:
        UserError: if there is no such method or setting.
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
    """A trained method, in evaluation mode, on the CPU: a plain ``nn.Module``, which needs no trainer.

    Args:
        model: one of :func:`list_models`; or, without ``weights``, a file that says by itself what it holds.
        weights: a checkpoint that ``reflectzoo.train`` wrote, a safetensors file of ``reflectzoo convert``, a file of
            the authors, the name of weights that ``reflectzoo models`` lists, or an address whose file name carries its
            sha256; None takes the method's default weights.
        *overrides: of the model's configuration, for a file that does not say it, e.g. ``"model.net.iterations=2"``.
        untrained: take fresh weights if there are no trained ones.

    Raises:
        UserError: if there are no weights, the file is missing, damaged or would run code, or it does not fit.
    """
    from reflectzoo.inference.load import load, load_file

    name = str(model)
    if weights is None and name not in list_models():
        return load_file(Path(model).expanduser(), None, overrides)
    return load(name, weights, overrides, untrained)


def __getattr__(name: str) -> object:
    # Pillow, OpenCV and the rest are loaded by whoever needs them.
    if name == "separate":
        from reflectzoo.inference.api import separate

        return separate
    raise AttributeError(f"module 'reflectzoo' has no attribute '{name}'")
