"""Veil: a method that lives outside the zoo, with a loss, an authors' layout and weights of its own."""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size, Tiling

METHOD = Method(
    name="veil",
    package=__name__,
    title="Three convolutions that take a veil away",
    models={"veil": Model("predicts the reflection and subtracts it")},
    networks=(".net:VeilNet",),
    tiny=("model.net.channels=4",),
    size=Size(multiple=2),
    tiling=Tiling(halo=8),
    detect=".convert:recognise",
    remap=".convert:remap",
)
