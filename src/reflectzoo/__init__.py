"""reflectzoo: a PyTorch Lightning model zoo for taking reflections out of photographs shot through glass.

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
    from reflectzoo.core.module import ReflectionModule

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "load_model"]


def list_models() -> list[str]:
    """Names of the methods: what ``model=`` takes on the command line."""
    from reflectzoo.config import model_names

    return model_names()


def create_model(name: str, *overrides: str) -> ReflectionModule:
    """A method with fresh weights, as its configuration has it; a LightningModule that is ready to look or to train.

    Args:
        name: one of :func:`list_models`.
        *overrides: as on the command line, e.g. ``"model.net.width=32"``, ``"model.vgg=random"``, ``"loss=pixel"``.

    Raises:
        UserError: if there is no such method or setting.
    """
    from reflectzoo.config import build, compose_config, plain, user_sentences

    words = [f"model={name}", *overrides]
    with user_sentences(*words):
        config = compose_config(words)
        model: ReflectionModule = build(config.model)
    model.config = plain(config.model)
    model.attach_vgg()
    return model.eval()


def load_model(path: str | Path) -> ReflectionModule:
    """A trained method from a checkpoint that ``reflectzoo.train`` wrote, in evaluation mode, on the CPU.

    Args:
        path: the ``.ckpt`` file.

    Raises:
        UserError: if the file is missing, damaged, or was not written by the zoo.
    """
    from reflectzoo.config import build_from_record
    from reflectzoo.core.checkpoints import read_checkpoint
    from reflectzoo.errors import UserError

    checkpoint = read_checkpoint(Path(path), "The checkpoint")
    record = (checkpoint.get("reflectzoo") or {}).get("config")
    if not record or "state_dict" not in checkpoint:
        raise UserError(f"{path} was not written by reflectzoo.train, so it does not say which model it holds.")
    try:
        model: ReflectionModule = build_from_record(
            {**record, "stage1_ckpt": None} if "stage1_ckpt" in record else record
        )
    except ValueError as error:
        raise UserError(f"{path} is not opened: {error}.") from error
    model.config = record
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    model.attach_vgg()
    return model.eval()
