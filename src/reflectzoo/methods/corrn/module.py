"""Training of CoRRN, whose encoder starts from ImageNet weights."""

from __future__ import annotations

from typing import Any

from reflectzoo.methods.corrn.encoder import fill_encoder
from reflectzoo.training.module import ReflectionModule


class CoRRN(ReflectionModule):
    """Cooperative Reflection Removal Network (Wan et al., TPAMI 2019), trained end to end as in Sec. 4.3.

    Args:
        encoder: initial weights of a new network's encoder: ``auto``, ``imagenet``, ``random`` or a path (see
            :func:`~reflectzoo.methods.corrn.encoder.fill_encoder`). Ignored if a checkpoint is loaded.
        **kwargs: as for :class:`~reflectzoo.training.module.ReflectionModule`.
    """

    def __init__(self, *args: Any, encoder: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("encoder")
        self.encoder_source = encoder
        self.encoder_used: str | None = None
        """Origin of the encoder's initial weights, ``imagenet``, ``random`` or a path; None before they are loaded."""

    def attach_vgg(self) -> None:
        """Also load the encoder's initial weights, once and only if no checkpoint has been loaded."""
        if self.encoder_used is None:
            self.encoder_used = fill_encoder(self.net, self.encoder_source)
        super().attach_vgg()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also record the origin of the encoder's initial weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reflectzoo"]["encoder"] = self.encoder_used

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also mark the encoder as loaded, since the checkpoint contains its weights."""
        self.encoder_used = str((checkpoint.get("reflectzoo") or {}).get("encoder") or "checkpoint")
        super().on_load_checkpoint(checkpoint)
