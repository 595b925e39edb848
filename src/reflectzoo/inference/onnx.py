"""Run networks exported by ``reflectzoo export`` with onnxruntime."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflectzoo.errors import UserError
from reflectzoo.inference.separator import Quality, Separator
from reflectzoo.inference.tiles import TilePlan
from reflectzoo.photo.files import quoted_path
from reflectzoo.weights.stored import parse_metadata

FORMAT = "reflectzoo"
"""Value of ``format`` in the metadata of reflectzoo's ONNX files."""

#: Required metadata: name of the model, length to which shorter sides must be padded, number of statistics over all
#: pixels, and peak memory per pixel. Read if present: ``multiple`` and ``halo`` for tiles, ``working`` for the size of
#: large photographs, ``mirrored``. Network, settings, opset and version are for information.
FACTS: dict[str, type | tuple[type, ...]] = {
    "model": str, "smallest": int, "statistics": int, "bytes_per_pixel": (int, float),
}  # fmt: skip

#: Memory of onnxruntime relative to torch, which frees intermediate results earlier.
_HELD = 2.0


def need(name: str) -> Any:
    """Import a package of the extra ``onnx``.

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
    """A network in an ONNX file; callable like a module, with (1, 3, H, W) in [0, 1], H and W at least ``smallest``.

    Args:
        source: the file, or its content.
        name: name of the file in error messages.
        threads: number of onnxruntime's threads; None takes torch's.

    Attributes:
        facts: metadata from ``reflectzoo export``, see :data:`FACTS`.
        layers: names of the outputs.

    Raises:
        UserError: if the file is missing, damaged or from another program, or onnxruntime is not installed.
    """

    def __init__(self, source: Path | bytes, name: str = "", threads: int | None = None) -> None:
        runtime = need("onnxruntime")
        if isinstance(source, Path):
            name = name or quoted_path(source)
            if not source.is_file():
                raise UserError(f"There is no ONNX file {name}: make it with `reflectzoo export --model NAME`.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = 3
        # An arena would keep memory of each size of picture for later reuse, mostly idle.
        options.enable_cpu_mem_arena = False
        try:
            given = str(source) if isinstance(source, Path) else source
            self._session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"{name} cannot be opened by onnxruntime and may be damaged: export it again.") from error
        noted = self._session.get_modelmeta().custom_metadata_map
        if noted.get("format") != FORMAT:
            raise UserError(f"{name} was not written by `reflectzoo export`: export the model with it.")
        self.facts = _facts(noted.get("record", ""), name)
        self.layers = tuple(each.name for each in self._session.get_outputs())

    def __call__(self, mixture: Tensor) -> dict[str, Tensor]:
        """Separate a picture into layers by name, each (1, 3, H, W) float32, not clamped."""
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
    """A :class:`~reflectzoo.inference.separator.Separator` that runs a :class:`Session` on the CPU.

    Args:
        session: the network.
        memory: as in :class:`~reflectzoo.inference.separator.Separator`.
        quality: likewise.
        working: likewise; None takes the file's.
    """

    def __init__(
        self,
        session: Session,
        memory: int | None = None,
        quality: Quality = "normal",
        working: int | None = None,
    ) -> None:
        facts = session.facts
        super().__init__(
            session,
            "cpu",
            "32",
            memory,
            halo=facts.get("halo"),
            smallest=facts["smallest"],
            quality=quality,
            working=facts.get("working") if working is None else working,
            mirrored=facts.get("mirrored"),
        )
        self.size = replace(self.size, multiple=int(facts.get("multiple", self.size.multiple)))
        self.statistics = int(facts["statistics"])
        self._per_pixel = _HELD * float(facts["bytes_per_pixel"])

    def _plan(self, height: int, width: int, held: float = 0, banded: bool = False) -> TilePlan:
        plan = super()._plan(height, width, held, banded)
        if plan.count > 1 and self.statistics:
            # In PyTorch, GlobalStatistics substitutes statistics of the whole picture; graphs cannot be changed.
            raise UserError(
                f"This picture of {width}x{height} pixels does not fit into memory at once, and this ONNX file cannot "
                "be tiled, because its network takes means over the whole picture: allow more with --memory, or use "
                "PyTorch, which needs less (leave out --backend onnx)."
            )
        return plan
