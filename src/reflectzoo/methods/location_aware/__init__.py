"""Location-aware SIRR: "Location-aware Single Image Reflection Removal".

Dong, Xu, Yang, Bao, Xu and Lau, ICCV 2021. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

METHOD = Method(
    name="location_aware",
    package=__name__,
    title="Location-aware Single Image Reflection Removal",
    models={
        "location_aware": Model(
            "recurrent network guided by a map of where reflections lie",
            starts_from={"stage1_ckpt": "weights of the same model: a checkpoint, or the authors' model.pth"},
        )
    },
    networks=(".net:LocationAwareNet",),
    tiny=("model.net.width=8",),
    size=Size(multiple=32),
    detect=".convert:recognise",
    remap=".convert:remap",
    check=".convert:check_layout",
    begin=".net:begin",
    published="Location-aware",
)
