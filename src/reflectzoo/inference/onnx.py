"""Networks that ``reflectzoo export`` has written, run by onnxruntime."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflectzoo.errors import UserError
from reflectzoo.inference.separator import Quality, Separator
from reflectzoo.inference.tiles import TilePlan
from reflectzoo.photo.files import shown
from reflectzoo.weights.stored import parse_metadata

FORMAT = "reflectzoo"
"""What our ONNX files call themselves in their metadata."""

#: What the metadata say: which model, sides below ``smallest`` must be continued to it, how many means over the whole
#: picture it takes, and what it holds for each pixel. Also there, for people: network, settings, opset, version.
FACTS: dict[str, type | tuple[type, ...]] = {
    "model": str, "smallest": int, "statistics": int, "bytes_per_pixel": (int, float),
}  # fmt: skip

#: onnxruntime keeps more at a time than torch does, which frees what nobody needs any more.
_HELD = 2.0


def need(name: str) -> Any:
    """A package of the extra ``onnx``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"This needs the package {name}, which is not installed: pip install 'reflectzoo[onnx]'."
        ) from error


class Session:
    """A network in an ONNX file; called as a module is, with (1, 3, H, W) in [0, 1], H and W from ``smallest`` up.

    Args:
        source: the file, or its content.
        name: what to call it in messages.
        threads: of onnxruntime; None takes torch's.

    Attributes:
        facts: what ``reflectzoo export`` wrote down, see :data:`FACTS`.

    Raises:
        UserError: if there is no such file, it is damaged, of another program, or onnxruntime is missing.
    """

    def __init__(self, source: Path | bytes, name: str = "", threads: int | None = None) -> None:
        runtime = need("onnxruntime")
        if isinstance(source, Path):
            name = name or shown(source)
            if not source.is_file():
                raise UserError(f"There is no ONNX file {name}: make it with `reflectzoo export --model NAME`.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = 3
        # Kept for the next picture, memory of one size would lie idle beside that of the other.
        options.enable_cpu_mem_arena = False
        try:
            given = str(source) if isinstance(source, Path) else source
            self._session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise UserError(f"{name} cannot be opened by onnxruntime and may be damaged: export it again.") from error
        noted = self._session.get_modelmeta().custom_metadata_map
        if noted.get("format") != FORMAT:
            raise UserError(f"{name} was not written by `reflectzoo export`: export the model with it.")
        self.facts = _facts(noted.get("record", ""), name)
        self.layers = tuple(each.name for each in self._session.get_outputs())

    def __call__(self, mixture: Tensor) -> dict[str, Tensor]:
        """Layers by name, float32, not clamped."""
        found = self._session.run(None, {"mixture": mixture.detach().float().contiguous().numpy()})
        return {name: torch.from_numpy(layer) for name, layer in zip(self.layers, found, strict=True)}


def _facts(text: str, name: str) -> dict[str, Any]:
    try:
        facts = parse_metadata(text)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in FACTS.items()):
        raise UserError(f"{name} lacks the metadata of `reflectzoo export` and may be damaged: export it again.")
    return facts


class OnnxSeparator(Separator):
    """As :class:`~reflectzoo.inference.separator.Separator`, with a :class:`Session`, on the CPU.

    Args:
        session: the network.
        memory: see there.
        quality: see there.
    """

    def __init__(self, session: Session, memory: int | None = None, quality: Quality = "normal") -> None:
        facts = session.facts
        super().__init__(
            session, "cpu", "32", memory, halo=facts.get("halo"), smallest=facts["smallest"], quality=quality
        )
        self.stride = int(facts.get("multiple", self.stride))
        self.statistics = int(facts["statistics"])
        self._per_pixel = _HELD * float(facts["bytes_per_pixel"])

    def _plan(self, height: int, width: int, held: float = 0, banded: bool = False) -> TilePlan:
        plan = super()._plan(height, width, held, banded)
        if plan.count > 1 and self.statistics:
            # In PyTorch tiles are told the means of the whole picture; nobody can tell a finished graph.
            raise UserError(
                f"This picture of {width}x{height} pixels does not fit into memory at once, and this ONNX file cannot "
                "be tiled, because its network takes means over the whole picture: allow more with --memory, or use "
                "PyTorch, which needs less (leave out --backend onnx)."
            )
        return plan
