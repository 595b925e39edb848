"""CoRRN: "CoRRN: Cooperative Reflection Removal Network".

Wan, Shi, Li, Duan, Tan and Kot, TPAMI 2019. See README.md in this folder.
"""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

METHOD = Method(
    name="corrn",
    package=__name__,
    title="CoRRN: Cooperative Reflection Removal Network",
    models={"corrn": Model("image and gradient decoder that help each other")},
    networks=(".net:CoRRNNet",),
    tiny=("model.net.width=8",),
    size=Size(multiple=32),
    detect=".convert:recognise",
    remap=".convert:remap",
    check=".convert:check_layout",
    published="CoRRN",
)
