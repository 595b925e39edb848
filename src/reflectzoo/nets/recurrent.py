"""Convolutional LSTM for networks that process an image iteratively."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.errors import UserError
from reflectzoo.nets.plain import is_plain
from reflectzoo.nets.winograd import RowBand, winograd_bands, winograd_is_faster
from reflectzoo.ops.checks import full_precision

_BAND = 2**21  # maximum number of gate values held at a time, without gradients
_GATES = ("i", "g", "o", "f")  # names in the authors' programs, in the order in which ConvLSTM joins the gates
_GATE = re.compile(rf"(?P<prefix>.*\.)?conv_[{''.join(_GATES)}]\.(?P<rest>.+)")


class State(NamedTuple):
    """State of a :class:`ConvLSTM`, (B, channels, H, W) each, in at least float32 whatever the precision."""

    hidden: Tensor
    cell: Tensor


class ConvLSTM(nn.Module):
    """Convolutional LSTM (Shi et al., NeurIPS 2015, without peepholes) whose four gates are one convolution.

    ``i, g, o, f = gates([x, h])``; ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``; ``h' = sigmoid(o) tanh(c')``. The state
    stays in float32 under mixed precision.

    Shortcuts that do not change the result, up to rounding: the four gates are one convolution; the first step, whose
    state is zero, omits the state's half of that kernel and the forget gate; without gradients the gates are computed
    a band of rows at a time, on a CPU by Winograd. :func:`~reflectzoo.nets.plain.plain_form` disables them.

    Args:
        in_channels: channels of x.
        channels: channels of h and c.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = channels
        # The forget gate comes last, so that the first step, which has nothing to forget, can drop the tail.
        self.gates = nn.Conv2d(in_channels + channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor, state: State | None) -> State:
        """Compute one step.

        Args:
            x: (B, in_channels, H, W).
            state: state after the previous step; None for the first step, where it is zero.
        """
        if is_plain():
            return self._plain(x, state)
        weight, bias = self.gates.weight, cast(Tensor, self.gates.bias)
        if state is None:
            weight, bias = weight[: 3 * self.channels, : self.in_channels], bias[: 3 * self.channels]
        else:
            x = torch.cat((x, state.hidden.to(x.dtype)), 1)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._cell(F.conv2d(x, weight, bias, padding=1), None if state is None else state.cell)
        return self._in_bands(x, weight, bias, None if state is None else state.cell)

    def _in_bands(self, x: Tensor, weight: Tensor, bias: Tensor, cell: Tensor | None) -> State:
        """Compute a band of rows at a time, since the gates of a whole photograph are four times as large as a map."""
        form = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        shape = (len(x), self.channels, *x.shape[-2:])
        new = State(*(torch.empty(shape, device=x.device, dtype=weight.dtype, memory_format=form) for _ in range(2)))
        for band in (
            winograd_bands(x, weight, bias) if winograd_is_faster(x, weight) else _direct_bands(x, weight, bias)
        ):
            here = (slice(band.sample, band.sample + 1), slice(None), band.rows)
            part = self._cell(band.values.permute(2, 0, 1)[None], None if cell is None else cell[here])
            new.hidden[here] = part.hidden
            new.cell[here] = part.cell
        return new

    @staticmethod
    def _cell(gates: Tensor, cell: Tensor | None) -> State:
        entering, candidate, leaving, *forgetting = full_precision(gates).chunk(3 if cell is None else 4, 1)
        new = torch.sigmoid(entering) * torch.tanh(candidate)
        if cell is not None:
            new = torch.addcmul(new, torch.sigmoid(forgetting[0]), cell)
        return State(torch.sigmoid(leaving) * torch.tanh(new), new)

    def _plain(self, x: Tensor, state: State | None) -> State:
        if state is None:
            zeros = self.gates.weight.new_zeros(len(x), self.channels, *x.shape[-2:])
            state = State(zeros, zeros)
        x = torch.cat((x, state.hidden.to(x.dtype)), 1)
        kernels = zip(self.gates.weight.chunk(4), cast(Tensor, self.gates.bias).chunk(4), strict=True)
        entering, candidate, leaving, forgetting = (full_precision(F.conv2d(x, w, b, padding=1)) for w, b in kernels)
        cell = torch.sigmoid(forgetting) * state.cell + torch.sigmoid(entering) * torch.tanh(candidate)
        return State(torch.sigmoid(leaving) * torch.tanh(cell), cell)


def _direct_bands(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[RowBand]:
    """The same as :func:`~reflectzoo.nets.winograd.winograd_bands`, but on any device and in any precision."""
    height, width = x.shape[-2:]
    rows = max(_BAND // (len(weight) * width), 1)
    for sample in range(len(x)):
        padded = F.pad(x[sample : sample + 1], (0, 0, 1, 1))
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height))
            gates = F.conv2d(padded[..., top : band.stop + 2, :], weight, bias, padding=(0, 1))
            yield RowBand(sample, band, gates[0].permute(1, 2, 0))


def join_gates(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict with one convolution per gate (``conv_i``, ``conv_g``, ``conv_o``, ``conv_f``).

    Args:
        state: with keys such as ``conv_i.0.weight``, perhaps with a prefix; other keys are kept.

    Returns:
        The same with ``lstm.gates.weight`` and ``lstm.gates.bias`` of a :class:`ConvLSTM` in place of the four.

    Raises:
        UserError: if some of the gates are missing.

    Example:
        >>> state = {f"net.conv_{gate}.0.bias": torch.full((1,), float(n)) for n, gate in enumerate("fgio")}
        >>> join_gates(state)
        {'net.lstm.gates.bias': tensor([2., 1., 3., 0.])}
    """
    joined: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _GATE.fullmatch(key)
        if match is None:
            joined[key] = value
            continue
        prefix, rest = match["prefix"] or "", match["rest"]
        ours = f"{prefix}lstm.gates.{rest.rpartition('.')[2]}"
        if ours in joined:
            continue
        names = [f"{prefix}conv_{gate}.{rest}" for gate in _GATES]
        missing = [name for name in names if name not in state]
        if missing:
            raise UserError(f"This checkpoint has '{key}', but not '{missing[0]}': it may be damaged.")
        joined[ours] = torch.cat([state[name] for name in names])
    return joined
