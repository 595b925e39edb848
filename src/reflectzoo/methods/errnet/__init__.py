"""ERRNet: "Single Image Reflection Removal Exploiting Misaligned Training Data and Network Enhancements".

Wei, Yang, Fu, Wipf and Huang, CVPR 2019. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size, Tiling

METHOD = Method(
    name="errnet",
    package=__name__,
    title="Single Image Reflection Removal Exploiting Misaligned Training Data and Network Enhancements",
    models={
        "errnet": Model(
            "residual network at half size over VGG features, with context of channels and scales",
            starts_from={"stage1_ckpt": "a finished first phase: a checkpoint of model=errnet, or the authors' file"},
        )
    },
    networks=(".net:ERRNet",),
    tiny=("model.net.width=12", "model.net.blocks=2", "model.net.hypercolumn=false", "model.init=copy"),
    size=Size(multiple=32),
    tiling=Tiling(halo=128),
    detect=".convert:recognise",
    remap=".convert:remap",
    check=".convert:check_layout",
    published="ERRNet",
)
