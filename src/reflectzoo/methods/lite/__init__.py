"""Lite: the zoo's own small network, the one whose weights ship. See README.md in this folder."""

from __future__ import annotations

from reflectzoo.core.method import Method, Model, Size

METHOD = Method(
    name="lite",
    package=__name__,
    title="A small network that runs on a laptop",
    models={"lite": Model("the zoo's own small network, whose weights ship")},
    networks=(".net:LiteNet",),
    tiny=("model.net.width=8",),
    size=Size(multiple=32),
)
