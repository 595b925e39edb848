"""IBCLN: "Single Image Reflection Removal through Cascaded Refinement".

Li, Yang, He, Lin and Hopcroft, CVPR 2020. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

METHOD = Method(
    name="ibcln",
    package=__name__,
    title="Single Image Reflection Removal through Cascaded Refinement",
    models={"ibcln": Model("two networks with memories that refine both layers in turn")},
    networks=(".net:IBCLNNet",),
    tiny=("model.net.width=8",),
    size=Size(multiple=32),
    gather=".convert:gather",
    detect=".convert:recognise",
    remap=".convert:remap",
    check=".convert:check_layout",
    published="IBCLN",
)
