"""Lite: the zoo's own small network, the one whose weights ship. See README.md in this folder."""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size, Tiling

METHOD = Method(
    name="lite",
    package=__name__,
    title="A small network that runs on a laptop",
    models={
        "lite": Model(
            "our own small network with ImageNet features and packaged weights",
            size=Size(multiple=32, working=384),
            tiling=Tiling(halo=256),  # the features have a large receptive field
            mirrored=True,
        ),
        "lite_1": Model("the first version of lite, without ImageNet features"),
    },
    networks=(".net_2:LiteNet2", ".net:LiteNet"),
    begin=".net_2:begin",
    former={("lite", "LiteNet"): "lite_1"},
    tiny=("model.net.width=8",),
    size=Size(multiple=32),
)
