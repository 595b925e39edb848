"""How a frozen VGG reaches the networks and losses that look through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from reflectzoo.nets.vgg import VGG19


class UsesVGG(nn.Module):
    """Base of modules that need a frozen VGG-19.

    The VGG is shared, follows ``.to(...)``, and is neither a parameter nor part of the state dict: checkpoints stay
    small and the authors' files load as they are. Constructors never download; whoever owns the module (the
    LightningModule, ``create_model``, a test) calls :func:`attach_vgg` once.
    """

    @property
    def vgg(self) -> VGG19:
        """The attached VGG.

        Raises:
            RuntimeError: if none was attached.
        """
        vgg: VGG19 | None = self.__dict__.get("_shared_vgg")
        if vgg is None:
            raise RuntimeError(
                f"{type(self).__name__} needs VGG-19 features: call "
                "reflectzoo.nets.shared_vgg.attach_vgg(module, reflectzoo.nets.vgg.load_vgg19('auto')) first."
            )
        return vgg

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> UsesVGG:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        vgg = self.__dict__.get("_shared_vgg")
        if vgg is not None:
            vgg._apply(fn)
        return self


def needs_vgg(*modules: nn.Module | None) -> bool:
    """Whether any submodule looks through a VGG."""
    return any(isinstance(child, UsesVGG) for module in modules if module is not None for child in module.modules())


def attach_vgg(module: nn.Module, vgg: VGG19) -> None:
    """Give one VGG to every submodule that needs it."""
    for child in module.modules():
        if isinstance(child, UsesVGG):
            child.__dict__["_shared_vgg"] = vgg
