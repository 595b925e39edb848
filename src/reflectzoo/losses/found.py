"""What a network may hand to the loss besides layers."""

from __future__ import annotations

from typing import Any

from reflectzoo.core.batch import Outputs
from reflectzoo.errors import UserError


def found(outputs: Outputs, key: str) -> Any:
    """``outputs["aux"][key]``.

    Raises:
        UserError: if this network does not make it.
    """
    aux = outputs.get("aux", {})
    if key not in aux:
        made = ", ".join(aux) or "nothing besides layers"
        raise UserError(
            f"The loss has a term on aux['{key}'], but this network makes {made}: take that term out "
            "(~loss.terms.<name>) or choose another loss=."
        )
    return aux[key]
