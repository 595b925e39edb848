"""Export a network to an ONNX file for pictures of any size, compared with PyTorch before the file is written.

The exporter traces the network once with symbolic sides, and takes a single branch wherever a network tests them. It is
therefore given a size at which every padding is needed, so that no padding becomes a special case of the same branch.
Remaining errors of the exporter are silent; hence the comparison at other sizes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import reflectzoo
from reflectzoo.errors import UserError
from reflectzoo.inference.load import LoadedModel
from reflectzoo.inference.onnx import FORMAT, Session, need
from reflectzoo.inference.tiles import bytes_per_pixel
from reflectzoo.inference.whole_view import GlobalStatistics
from reflectzoo.nets.hypercolumn import plain_hypercolumn
from reflectzoo.photo.files import quoted_path, write_atomically

OPSET = 20
#: (height, width) of the comparison: multiples of 32, odd, and neither; none is square.
CHECKED_SIZES = ((64, 96), (67, 93), (90, 58))
ONNX_TOLERANCE = 1e-3
#: Sides of smaller pictures are padded to this many pixels before the exported network runs.
SMALLEST = 32
_LARGEST = 2**16
#: Maximum size of weights in bytes: a single ONNX file must stay below 2 GiB.
_MOST_BYTES = 2**31 - 2**20
_PROBE = 129


class Exported(NamedTuple):
    """Summary of a written file.

    Attributes:
        model: name of the model.
        opset: ONNX opset.
        layers: names of the outputs.
        differences: largest absolute difference from PyTorch, of values about [0, 1], for each (height, width).
        size: file size in bytes.
    """

    model: str
    opset: int
    layers: tuple[str, ...]
    differences: dict[tuple[int, int], float]
    size: int


class ExportError(UserError):
    """Raised if a network cannot be exported or its export is wrong; nothing has been written."""


def export(
    module: LoadedModel,
    target: Path,
    *,
    opset: int = OPSET,
    sizes: Sequence[tuple[int, int]] = CHECKED_SIZES,
    tolerance: float = ONNX_TOLERANCE,
    overwrite: bool = False,
) -> Exported:
    """Export a network to ONNX, and write the file if its outputs in onnxruntime match PyTorch.

    Input ``mixture`` (1, 3, height, width), float32 in [0, 1], RGB, with sides of at least ``smallest`` (32 or more;
    see :data:`reflectzoo.inference.onnx.FACTS`); outputs ``transmission`` and, if the network has one, ``reflection``,
    of the same size, not clamped. The metadata hold what :class:`reflectzoo.inference.onnx.Session` needs.

    Args:
        module: a model with its weights, on the CPU.
        target: the new file; must end in ``.onnx``.
        opset: ONNX opset, 18 or later.
        sizes: (height, width) of the pictures used for comparison.
        tolerance: largest absolute difference allowed.
        overwrite: replace an existing file.

    Raises:
        ExportError: if the network cannot be exported or the export differs from PyTorch.
        UserError: if a package is missing, the opset is not supported, or the file cannot be written.
    """
    if target.suffix != ".onnx":
        raise UserError(f"{quoted_path(target)} must end in .onnx.")
    if target.exists() and not overwrite:
        raise UserError(f"{quoted_path(target)} already exists: --overwrite replaces it.")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        need(name)
    most = _newest_opset()
    if not 18 <= opset <= most:
        raise UserError(f"The opset must lie between 18 and {most}, got {opset}.")
    total = sum(each.numel() * each.element_size() for each in module.state_dict().values())
    if not module.method.onnx:
        raise ExportError(
            f"model={module.name} cannot be exported: its padding depends on the picture's size in a way that ONNX "
            "does not support; use PyTorch for it."
        )
    if total > _MOST_BYTES:
        raise ExportError(f"model={module.name} has {total / 2**30:.1f} GiB of weights; an ONNX file can hold 2 GiB.")

    module.eval()
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        stride, layers, statistics = _look(module)
        program = _follow(_Exportable(module, stride, layers), opset, stride, layers, module.name)
        facts = {
            "model": module.name,
            "network": module.stored.network,
            "settings": module.stored.settings,
            "opset": opset,
            "smallest": max(SMALLEST, stride, module.size.minimum),
            "multiple": module.size.multiple,
            "halo": module.tiling.halo,
            "working": module.size.working,
            "mirrored": module.mirrored,
            "statistics": statistics,
            "bytes_per_pixel": _bytes_per_pixel(module),
            "version": reflectzoo.__version__,
        }
        data = _with_metadata(program, facts)
        differences = _compare(module, data, sizes)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
    wrong = {size: each for size, each in differences.items() if not each <= tolerance}
    if wrong:
        (height, width), worst = max(wrong.items(), key=lambda pair: pair[1])
        raise ExportError(
            f"The export of model={module.name} is wrong: at {width}x{height} pixels onnxruntime differs from PyTorch "
            f"by {worst:.2g}, allowed is {tolerance:g}; nothing was written, use PyTorch for this model."
        )
    write_atomically(target, data, overwrite)
    return Exported(module.name, opset, layers, differences, len(data))


def _look(module: nn.Module) -> tuple[int, tuple[str, ...], int]:
    """The multiple that the network pads to, the names of its layers, and its number of statistics over all pixels."""
    image = torch.rand(1, 3, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0))
    spy, view = _PaddingSpy(image.shape), GlobalStatistics()
    with torch.no_grad(), plain_hypercolumn():
        with spy:
            found = module(image)
        with view.learning():
            module(image)
    layers = tuple(name for name in ("transmission", "reflection") if found.get(name) is not None)
    return spy.stride, layers, view.statistics


class _PaddingSpy(TorchFunctionMode):
    """Finds the multiple to which a network pads, from the pixels that it adds to a side of 128 + 1."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self._shape = shape
        self.stride = 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
        if func is F.pad and args[0].shape == self._shape and mode in ("reflect", "replicate"):
            amounts = tuple(kwargs.get("pad", args[1] if len(args) > 1 else ()))
            if len(amounts) == 4 and amounts[0] == amounts[2] == 0 and amounts[1] == amounts[3]:
                self.stride = max(self.stride, int(amounts[1]) + 1)
        return func(*args, **kwargs)


class _Exportable(nn.Module):
    """Maps a picture to a tuple of layers, with padding that the exporter can trace."""

    def __init__(self, module: nn.Module, stride: int, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.stride = stride
        self.layers = layers

    def forward(self, mixture: Tensor) -> tuple[Tensor, ...]:
        height, width = mixture.shape[-2:]
        image = mixture
        if self.stride > 1:
            # Symbolically, the new sides are multiples of the stride, so that the network's own padding is no branch.
            for axis, length in ((2, height), (3, width)):
                places = torch.arange((length + self.stride - 1) // self.stride * self.stride)
                image = image.index_select(axis, torch.where(places < length, places, 2 * (length - 1) - places))
        outputs = self.module(image)
        return tuple(outputs[name][..., :height, :width] if self.stride > 1 else outputs[name] for name in self.layers)


class _ForExport(TorchFunctionMode):
    """Replaces average pooling with ragged borders, for which exporter and runtime differ, by other operators."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        ragged = func is F.avg_pool2d and kwargs.get("ceil_mode") and kwargs.get("count_include_pad") is False
        if ragged and len(args) == 2 and isinstance(args[1], int) and not kwargs.get("padding"):
            return mean_of_blocks(args[0], args[1])
        return func(*args, **kwargs)


def mean_of_blocks(x: Tensor, side: int) -> Tensor:
    """``avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)`` without pooling over ragged borders.

    Args:
        x: (B, C, H, W).
        side: side of a block in pixels.

    Returns:
        (B, C, ceil(H / side), ceil(W / side)).

    Example:
        >>> mean_of_blocks(torch.arange(6.0).view(1, 1, 2, 3), 2)
        tensor([[[[2.0000, 3.5000]]]])
    """
    inside: list[Tensor] = []
    for axis, length in ((2, x.shape[2]), (3, x.shape[3])):
        places = torch.arange((length + side - 1) // side * side, device=x.device)
        inside.append((places < length).to(x.dtype))
        x = x.index_select(axis, places.clamp(max=length - 1))
    mask = (inside[0][:, None] * inside[1])[None, None]
    return F.avg_pool2d(x * mask, side) / F.avg_pool2d(mask, side)


def _newest_opset() -> int:
    """The newest opset that the installed ONNX supports."""
    from onnx.defs import onnx_opset_version

    return int(onnx_opset_version())


def _follow(net: nn.Module, opset: int, stride: int, layers: tuple[str, ...], name: str) -> Any:
    """Trace the network and convert it to an ONNX program."""
    # One less than an odd multiple of the stride, or of 32 without one: no size fits without padding.
    sides = (63, 95) if stride == 1 else tuple((-(-least // stride) // 2 * 2 + 1) * stride - 1 for least in (64, 96))
    smallest = max(SMALLEST, stride)
    dynamic = {axis: torch.export.Dim(word, min=smallest, max=_LARGEST) for axis, word in ((2, "height"), (3, "width"))}
    try:
        # With gradients enabled, networks skip inference-only shortcuts, which ONNX has no operators for.
        with torch.enable_grad(), plain_hypercolumn(), _quiet():
            with _ForExport():
                followed = torch.export.export(
                    net,
                    (torch.rand(1, 3, *sides),),
                    dynamic_shapes=(dynamic,),
                    strict=False,
                    prefer_deferred_runtime_asserts_over_guards=True,
                )
            return torch.onnx.export(
                followed,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=["mixture"],
                output_names=list(layers),
                verbose=False,
            )
    except Exception as error:
        # The exporter raises exceptions of many unrelated types.
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(
            f"model={name} cannot be exported ({line[:200].rstrip('.!')}); nothing was written, use PyTorch for it."
        ) from error


def _with_metadata(program: Any, facts: dict[str, Any]) -> bytes:
    import onnx

    proto = program.model_proto
    # Readable names of both sides, for programs that display them; torch's are s28 and the like.
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, word in ((2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = word
    del proto.graph.value_info[:]
    onnx.helper.set_model_props(proto, {"format": FORMAT, "record": json.dumps(facts)})
    return cast(bytes, proto.SerializeToString())


def _compare(module: nn.Module, data: bytes, sizes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    session = Session(data, "the exported network")
    generator = torch.Generator().manual_seed(0)
    differences = {}
    for height, width in sizes:
        image = torch.rand(1, 3, height, width, generator=generator)
        with torch.no_grad():
            expected = module(image)
        try:
            found = session(image)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ExportError(
                f"The export of this network is wrong: onnxruntime cannot run it at {width}x{height} pixels; nothing "
                "was written, use PyTorch for this model."
            ) from error
        differences[height, width] = max(
            float("inf") if found[name].shape != expected[name].shape else
            float((found[name] - expected[name]).abs().nan_to_num(nan=float("inf")).max())
            for name in found
        )  # fmt: skip
    return differences


def _bytes_per_pixel(module: nn.Module) -> float:
    with torch.no_grad(), plain_hypercolumn():
        return bytes_per_pixel(module, torch.device("cpu"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about optional packages and its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
