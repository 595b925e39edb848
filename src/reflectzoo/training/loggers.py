"""Loggers that need a word before they start."""

from __future__ import annotations

import os
import threading
import urllib.request
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info

from reflectzoo.errors import UserError

_WANDB_URL = "https://api.wandb.ai"


def tensorboard(save_dir: str) -> TensorBoardLogger:
    """TensorBoard event files in ``<save_dir>/tensorboard``.

    Raises:
        UserError: if tensorboard is not installed.
    """
    try:
        return TensorBoardLogger(save_dir, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError("logger=tensorboard needs TensorBoard: pip install 'reflectzoo[loggers]'.") from error


def wandb(
    save_dir: str, project: str = "reflectzoo", name: str | None = None, group: str | None = None, mode: str = "auto"
) -> WandbLogger:
    """A W&B run that never blocks: without an account or a network it is written to disk, to be synced later.

    Args:
        save_dir: the run's folder.
        project: W&B project.
        name: W&B's own choice when None.
        group: runs of one sweep share it.
        mode: ``online``, ``offline``, ``disabled``, or ``auto``: online if there is a key and the server answers
            within five seconds.

    Raises:
        UserError: for another mode.
    """
    modes = ("auto", "online", "offline", "disabled")
    if mode not in modes:
        raise UserError(f"logger.wandb.mode={mode} is none of {', '.join(modes)}.")
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() and _answers(_WANDB_URL, 5.0) else "offline")
    if mode == "offline":
        # Offline W&B would still look its own host up to report errors, ten seconds at exit in a dead network.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        rank_zero_info(f"W&B: no account or network, writing to {save_dir}/wandb (wandb sync uploads it later)")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    import wandb as client

    settings: dict[str, Any] = {"mode": mode, "settings": client.Settings(silent=mode == "offline")}
    return WandbLogger(name=name, save_dir=save_dir, project=project, group=group, **settings)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb as client

    return bool(client.api.api_key)


def _answers(url: str, seconds: float) -> bool:
    """Whether a server answers in time; a name lookup may hang longer than any socket timeout, hence the thread."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except OSError:
            return

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)
