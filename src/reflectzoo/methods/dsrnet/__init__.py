"""DSRNet: "Single Image Reflection Separation via Component Synergy".

Hu and Guo, ICCV 2023. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size, Tiling

_TINY = (
    "model.net.width=8",
    "model.net.encoder=[1,1]",
    "model.net.middle=1",
    "model.net.decoder=[1,1]",
    "model.net.residue=[1,1]",
)

METHOD = Method(
    name="dsrnet",
    package=__name__,
    title="Single Image Reflection Separation via Component Synergy",
    models={
        "dsrnet_l": Model(
            "two streams that gate each other, and a learnt residue; as published large",
            tiny=(*_TINY, "model.net.hypercolumn=false"),
            family="dsrnet",
        ),
        "dsrnet_s": Model("the small one: half as wide, one level less", family="dsrnet"),
    },
    networks=(".net:DSRNet",),
    tiny=_TINY,
    size=Size(multiple=32),
    tiling=Tiling(halo=128),
    detect=".convert:recognise",
    remap=".convert:remap",
    check=".convert:check_layout",
    published="DSRNet",
)
