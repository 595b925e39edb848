"""CoRRN's training: like any other method's, from an encoder that has seen ImageNet."""

from __future__ import annotations

from typing import Any

from reflectzoo.methods.corrn.encoder import fill_encoder
from reflectzoo.training.module import ReflectionModule


class CoRRN(ReflectionModule):
    """Cooperative Reflection Removal Network (Wan et al., TPAMI 2019), Sec. 4.3: trained end to end.

    Args:
        encoder: the weights that a new network's encoder starts from: ``auto``, ``imagenet``, ``random`` or a path (see
            :func:`~reflectzoo.methods.corrn.encoder.fill_encoder`). A checkpoint brings its own.
        **kwargs: as for :class:`~reflectzoo.training.module.ReflectionModule`.
    """

    def __init__(self, *args: Any, encoder: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters("encoder")
        self.encoder_source = encoder
        self.encoder_used: str | None = None
        """Where the encoder's first weights came from: ``imagenet``, ``random`` or a path; None before that."""

    def attach_vgg(self) -> None:
        """Fill the encoder, once and unless a checkpoint did; then as for any method."""
        if self.encoder_used is None:
            self.encoder_used = fill_encoder(self.net, self.encoder_source)
        super().attach_vgg()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also write down what the encoder started from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reflectzoo"]["encoder"] = self.encoder_used

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The weights come with the checkpoint: nothing is left to be filled."""
        self.encoder_used = str((checkpoint.get("reflectzoo") or {}).get("encoder") or "checkpoint")
        super().on_load_checkpoint(checkpoint)
