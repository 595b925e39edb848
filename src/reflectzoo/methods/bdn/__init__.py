"""BDN: "Seeing Deeply and Bidirectionally: A Deep Learning Approach for Single Image Reflection Removal".

Yang, Gong, Liu and Shi, ECCV 2018. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

METHOD = Method(
    name="bdn",
    package=__name__,
    title="Seeing Deeply and Bidirectionally: A Deep Learning Approach for Single Image Reflection Removal",
    models={"bdn": Model("three U-Nets in a row: transmission, reflection, and transmission again")},
    networks=(".net:BDNNet",),
    tiny=("model.net.width=4", "model.net.levels=[4,3,3]"),
    size=Size(minimum=128, multiple=128),
    detect=".convert:recognise",
    remap=".convert:remap",
    check=".convert:check_layout",
    onnx=False,  # the padding of each level depends on the image's size
    published="BDN",
)
